package netfilter

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

func TestTablesMakesNone(t *testing.T) {
	ns := netns.ForTest(t, "node")
	for range 2 {
		for _, ipv6 := range []bool{false, true} {
			err := ns.Do(func() error {
				names, err := XTables(ipv6)
				if len(names) > 0 {
					t.Errorf("tables %v", names)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestGenerationMovesWithEveryCommit(t *testing.T) {
	ns := netns.ForTest(t, "node")
	generation := func() (g uint32) {
		err := ns.Do(func() error {
			conn, err := Dial()
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			g, err = conn.Generation()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	before := generation()
	if now := generation(); now != before {
		t.Errorf("generation %d, then %d", before, now)
	}
	if _, err := ns.Output("nft", "add", "table", "ip", "other"); err != nil {
		t.Fatal(err)
	}
	if now := generation(); now != before+1 {
		t.Errorf("generation %d after %d and one commit", now, before)
	}
}

// shown are the chains that iptables-legacy-save prints, the built-in ones as one.
func shown(t *testing.T, ns *netns.Namespace, command string) []XChain {
	t.Helper()
	out, err := ns.Output(command, "-t", "filter")
	if err != nil {
		t.Fatal(err)
	}
	chains := []XChain{{}}
	at := map[string]int{} // 0 for the built-in ones
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case line[0] == ':' && words[1] == "-": // no policy
			at[words[0][1:]] = len(chains)
			chains = append(chains, XChain{Name: words[0][1:]})
		case words[0] == "-A":
			chains[at[words[1]]].Rules++
		}
	}
	return chains
}

func TestChainsOfXTables(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		tool := "iptables-legacy"
		if ipv6 {
			tool = "ip6tables-legacy"
		}
		t.Run(tool, func(t *testing.T) {
			ns := netns.ForTest(t, "node")
			var infos []string
			for _, line := range []string{
				"-L", "-N A", "-N ERROR-LIKE", "-N Z", "-A INPUT -p tcp -m comment --comment long -j A", "-A A -j Z",
				"-A A -p udp -m multiport --dports 1,2 -j DROP", "-A Z -j REJECT", "-P FORWARD DROP", "-F A",
			} {
				if _, err := ns.Output(tool, strings.Fields(line)...); err != nil {
					netns.Lacks(t, "xtables", err)
				}
				var got []XChain
				err := ns.Do(func() error {
					x, err := ReadXTable(ipv6, "filter")
					if err != nil {
						return err
					}
					for c, err := range x.Chains() {
						if err != nil {
							return err
						}
						got = append(got, c)
					}
					brief, err := XTableInfo(ipv6, "filter")
					if err == nil {
						infos = append(infos, string(brief.Info))
					}
					if err == nil && !slices.Equal(brief.Info, x.Info) {
						t.Errorf("after %s: two infos", line)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(shown(t, ns, tool+"-save"), got); diff != "" {
					t.Errorf("after %s (-shown +got):\n%s", line, diff)
				}
			}
			for i := range infos[1:] {
				if changed := infos[i] != infos[i+1]; changed == (i+1 == 8) { // the policy, which is no number of rules
					t.Errorf("info after step %d: changed is %t", i+1, changed)
				}
			}
		})
	}
}
