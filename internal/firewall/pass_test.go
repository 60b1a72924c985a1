package firewall

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netfilter"
	"github.com/portway-dev/portway/internal/netns"
)

// askTimeout is long for a flow in a Lab and bounds those that are dropped.
const askTimeout = 150 * time.Millisecond

// variant is one of the two iptables.
type variant string

var variants = []variant{"nft", "legacy"}

func forEachVariant(t *testing.T, test func(*testing.T, *fixture, variant)) {
	t.Helper()
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			f := newFixture(t)
			if v == "legacy" {
				if _, err := f.Node.Output("iptables-legacy", "-S"); err != nil {
					t.Skip(err)
				}
			}
			test(t, f, v)
		})
	}
}

// packets are the counters that traffic moves.
var packets = regexp.MustCompile(`\[\d+:\d+\]`)

// iptables runs a command for both families.
func (f *fixture) iptables(v variant, args string) {
	f.t.Helper()
	f.run("iptables-" + string(v) + " " + args)
	f.run("ip6tables-" + string(v) + " " + args)
}

func (f *fixture) saveIPTables(v variant) string {
	f.t.Helper()
	return packets.ReplaceAllString(f.save("iptables-"+string(v)+"-save", "ip6tables-"+string(v)+"-save"), "")
}

// expect checks what passes, and that nobody else does.
func (f *fixture) expect(passes bool, when string) {
	f.t.Helper()
	if got := f.passes(netns.NodeAddr4, netns.NodeAddr6); got != passes {
		f.t.Fatalf("%s: our flows pass: %t, want %t", when, got, passes)
	}
	if f.foreign() {
		f.t.Errorf("%s: a flow that is not ours passes", when)
	}
}

func TestPassesAForwardPolicyOfDrop(t *testing.T) {
	forEachVariant(t, func(t *testing.T, f *fixture, v variant) {
		t.Helper()
		f.iptables(v, "-P FORWARD DROP")
		before := f.saveIPTables(v)
		f.expect(false, "before")

		if result := f.ensure(); !result.Changed || len(result.Findings) > 0 {
			t.Fatalf("first Ensure: %+v", result)
		}
		f.expect(true, "after")
		if result := f.ensure(); result.Changed {
			t.Error("second Ensure changed something")
		}

		for _, reload := range []string{"-F", "-F FORWARD", "-F " + Chain} {
			f.iptables(v, reload)
			if result := f.ensure(); !result.Changed {
				t.Errorf("%s was not noticed", reload)
			}
			f.expect(true, "after "+reload)
		}
		f.do(func() error { return f.firewall.Remove(t.Context()) })
		if diff := cmp.Diff(before, f.saveIPTables(v)); diff != "" {
			t.Errorf("Remove left something (-before +after):\n%s", diff)
		}
	})
}

// A restore of what was there before us, as firewalls do when they start again.
func TestRestoreIsHealed(t *testing.T) {
	forEachVariant(t, func(t *testing.T, f *fixture, v variant) {
		t.Helper()
		f.iptables(v, "-P FORWARD DROP")
		dir := t.TempDir()
		f.shell(fmt.Sprintf("cd %s; iptables-%[2]s-save > four; ip6tables-%[2]s-save > six", dir, v))
		f.ensure()
		f.shell(fmt.Sprintf("cd %s; iptables-%[2]s-restore < four; ip6tables-%[2]s-restore < six", dir, v))
		f.expect(false, "after the restore")
		if result := f.ensure(); !result.Changed {
			t.Error("the restore was not noticed")
		}
		f.expect(true, "after Ensure")
	})
}

// A policy changes no rule.
func TestPolicyAloneIsNoticed(t *testing.T) {
	forEachVariant(t, func(t *testing.T, f *fixture, v variant) {
		t.Helper()
		f.iptables(v, "-A FORWARD -m conntrack --ctstate INVALID -j DROP")
		before := f.saveIPTables(v)
		if result := f.ensure(); result.Changed || len(result.Findings) > 0 {
			t.Errorf("on a host whose FORWARD accepts: %+v", result)
		}
		f.iptables(v, "-P FORWARD DROP")
		if result := f.ensure(); !result.Changed {
			t.Error("the policy was not noticed")
		}
		f.iptables(v, "-P FORWARD ACCEPT")
		if result := f.ensure(); !result.Changed {
			t.Error("that nothing is needed any more was not noticed")
		}
		if diff := cmp.Diff(before, f.saveIPTables(v)); diff != "" {
			t.Errorf("not as before (-before +after):\n%s", diff)
		}
	})
}

// docker is what Docker 28 makes of FORWARD, in short.
const docker = `
for chain in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD; do %[1]s -N $chain; done
%[1]s -P FORWARD DROP
%[1]s -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
%[1]s -A DOCKER ! -i docker0 -o docker0 -j DROP
%[1]s -A DOCKER-BRIDGE -o docker0 -j DOCKER
%[1]s -A DOCKER-FORWARD -j DOCKER-CT
%[1]s -A DOCKER-FORWARD -j DOCKER-BRIDGE
%[1]s -A DOCKER-FORWARD -i docker0 -j ACCEPT
%[1]s -I FORWARD -j DOCKER-FORWARD
%[1]s -N DOCKER-USER || true
%[1]s -I FORWARD -j DOCKER-USER
`

func TestStandsInDockersChain(t *testing.T) {
	forEachVariant(t, func(t *testing.T, f *fixture, v variant) {
		t.Helper()
		f.iptables(v, "-P FORWARD DROP")
		f.ensure() // Docker comes later
		for _, tool := range []string{"iptables-" + string(v), "ip6tables-" + string(v)} {
			f.shell(fmt.Sprintf(docker, tool))
		}
		f.ensure()
		f.expect(true, "with Docker")
		for _, tool := range []string{"iptables-", "ip6tables-"} {
			if rules := f.run(tool + string(v) + " -S DOCKER-USER"); !strings.Contains(rules, "-A DOCKER-USER -j "+Chain) {
				t.Errorf("no jump in DOCKER-USER:\n%s", rules)
			}
			if rules := f.run(tool + string(v) + " -S FORWARD"); strings.Contains(rules, Chain) {
				t.Errorf("a jump is left in FORWARD:\n%s", rules)
			}
		}
		// Docker does not empty DOCKER-USER when it starts again, others do.
		f.iptables(v, "-F DOCKER-USER")
		f.ensure()
		f.expect(true, "after -F DOCKER-USER")
		if result := f.ensure(); result.Changed {
			t.Error("Ensure is not at rest")
		}
	})
}

// What a NetworkPolicy drops is not opened.
func TestStandsBehindNetworkPolicies(t *testing.T) {
	f := newFixture(t)
	f.shell(`
iptables-nft -N cali-FORWARD; iptables-nft -A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
iptables-nft -A cali-FORWARD -d 10.244.1.10 -j DROP
iptables-nft -P FORWARD DROP`)
	if result := f.ensure(); len(result.Findings) > 0 {
		t.Errorf("NetworkPolicies are a finding: %v", result.Findings)
	}
	if rules := f.run("iptables-nft -S FORWARD"); !strings.HasSuffix(rules, "cali-FORWARD\n-A FORWARD -j "+Chain+"\n") {
		t.Errorf("not behind cali-FORWARD:\n%s", rules)
	}
	if _, err := f.Client.Ask(6, netip.AddrPortFrom(netns.NodeAddr4, ourPort), askTimeout); err == nil {
		t.Error("what the policy drops passes")
	}
	if _, err := f.Client.Ask(6, netip.AddrPortFrom(netns.NodeAddr4, ourPort+1), askTimeout); err != nil {
		t.Error("what the policy lets pass is dropped")
	}
}

// Who is blocked stays blocked.
func TestBlockedClientsStayBlocked(t *testing.T) {
	forEachVariant(t, func(t *testing.T, f *fixture, v variant) {
		t.Helper()
		for i, chain := range []string{"FORWARD", "DOCKER-USER"} {
			if i > 0 {
				f.shell(fmt.Sprintf(docker, "iptables-"+string(v)))
				f.run("iptables-" + string(v) + " -A DOCKER-USER -j RETURN")
			}
			f.run("iptables-" + string(v) + " -P FORWARD DROP")
			block := chain + " -s " + netns.ClientAddr4.String() + " -j DROP"
			f.run("iptables-" + string(v) + " -I " + block)
			f.ensure()
			if f.passes(netns.NodeAddr4) {
				t.Errorf("%s: a blocked client passes", chain)
			}
			f.run("iptables-" + string(v) + " -D " + block)
			f.ensure()
			if !f.passes(netns.NodeAddr4) {
				t.Errorf("%s: our flows do not pass", chain)
			}
		}
	})
}

// iptables-legacy makes a table for whoever asks for it.
func TestAsksForNoTableThatIsNotThere(t *testing.T) {
	f := newFixture(t)
	f.ensure()
	f.do(func() error { return f.firewall.Remove(t.Context()) })
	f.do(func() error {
		for _, v6 := range []bool{false, true} {
			names, err := netfilter.XTables(v6)
			if err != nil || len(names) > 0 {
				return fmt.Errorf("tables %v: %w", names, err)
			}
		}
		return nil
	})
	if tables := f.run("nft list tables"); tables != "table inet portway\n" {
		t.Errorf("tables:\n%s", tables)
	}
}
