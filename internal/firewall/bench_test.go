package firewall

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// BenchmarkEnsure is what the agent spends on a host with Docker in both variants.
func BenchmarkEnsure(b *testing.B) {
	for _, rulesBefore := range []int{0, 1000} {
		for _, v := range variants {
			b.Run(fmt.Sprintf("%s/%d-rules", v, rulesBefore), func(b *testing.B) {
				ns := netns.ForTest(b, "node")
				script := ""
				for _, tool := range []string{"iptables-", "ip6tables-"} {
					script += fmt.Sprintf(docker, tool+string(v))
					script += fmt.Sprintf("{ echo '*filter'; for i in $(seq %d); do echo \"-A INPUT -p tcp --dport $i -j ACCEPT\"; done; echo COMMIT; } | %s%s-restore --noflush\n", rulesBefore, tool, v)
				}
				if _, err := ns.Output("sh", "-ec", script); err != nil {
					b.Fatal(err)
				}
				benchmark(b, ns)
			})
		}
	}
}

func benchmark(b *testing.B, ns *netns.Namespace) {
	b.Helper()
	traffic := one(frontend("192.0.2.1", rules.TCP, 8080), "10.0.0.1:80")
	traffic.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	run := func(name string, disturb func(*Firewall)) {
		b.Run(name, func(b *testing.B) {
			err := ns.Do(func() error {
				f, err := New(Config{Table: "portway", Mark: testMark})
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				if _, err = f.Ensure(b.Context(), traffic); err != nil {
					return err
				}
				for b.Loop() {
					disturb(f)
					if _, err := f.Ensure(b.Context(), traffic); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
	run("idle", func(*Firewall) {})
	// Somebody, such as we, changed other rules.
	run("commit", func(f *Firewall) { f.seen.generation++ })
	// Our chain goes, which is part of what is measured, and comes back.
	run("heal", func(f *Firewall) {
		if err := f.Remove(b.Context()); err != nil {
			b.Error(err)
		}
	})
	run("afresh", func(f *Firewall) { f.done, f.reader.last, f.saved = false, nil, map[tool]map[string]saved{} })
}
