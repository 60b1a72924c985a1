package iptables

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/rulestest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { netns.Main(m) }

// node is a fresh namespace and the Config to work in it.
type node struct {
	*testing.T
	ns *netns.Namespace
	c  Config
}

// eachVariant runs a test on a node of each variant this machine has.
func eachVariant(t *testing.T, f func(*node)) {
	t.Helper()
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			ns, c := inNamespace(t, v)
			f(&node{t, ns, c})
		})
	}
}

// inNamespace returns a fresh namespace and the Config to work in it with a variant. It
// skips where there is no such variant: the kernel may lack the modules of xtables.
func inNamespace(tb testing.TB, v Variant) (*netns.Namespace, Config) {
	tb.Helper()
	ns := netns.ForTest(tb, "node")
	for _, command := range []string{"iptables-", "ip6tables-"} {
		if out, err := ns.Output(command+string(v), "-t", "nat", "-L", "-n"); err != nil {
			tb.Skipf("no variant %s here: %s", v, out)
		}
	}
	c := DefaultConfig()
	c.NetNS, c.Variant = ns.Handle(), v
	return ns, c
}

func newProgrammer(tb testing.TB, c Config) *Programmer {
	tb.Helper()
	p, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// mustProgram expects success and returns the results.
func mustProgram(tb testing.TB, p *Programmer, s *rules.State) rules.Results {
	tb.Helper()
	results, err := p.Program(tb.Context(), s)
	if err != nil {
		tb.Fatal(err)
	}
	if len(results.Errors) > 0 {
		tb.Fatalf("errors without an error: %v", results.Errors)
	}
	for gateway, digest := range s.Digests() {
		if results.Committed[gateway] != digest {
			tb.Errorf("gateway %s: committed digest %q, want %q", gateway, results.Committed[gateway], digest)
		}
	}
	return results
}

// command runs a command in a namespace and returns what it prints.
func command(tb testing.TB, ns *netns.Namespace, line string) string {
	tb.Helper()
	out, err := ns.Output("sh", "-c", line)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// saved is what is in the tables of a variant, without what changes by itself.
func saved(tb testing.TB, ns *netns.Namespace, v Variant) string {
	tb.Helper()
	var out []string
	for _, command4or6 := range []string{"iptables-", "ip6tables-"} {
		for _, table := range tableNames {
			text := command(tb, ns, fmt.Sprintf("%s%s-save -t %s 2>/dev/null", command4or6, v, table))
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "#") {
					out = append(out, line)
				}
			}
		}
	}
	return strings.Join(out, "")
}

// readBack returns what of ours is in the kernel, by family. The order of rules that
// have none is that of their text.
func readBack(tb testing.TB, c Config) map[string]map[string][]string {
	tb.Helper()
	all := make(map[string]map[string][]string)
	err := inside(c.NetNS, func() error {
		for _, ipv6 := range []bool{false, true} {
			t, err := findTools(c.Variant, ipv6, new(Stats))
			if err != nil {
				return err
			}
			m, err := t.read(tb.Context())
			if err != nil {
				return err
			}
			for at := range m.chains {
				if slices.Contains(bags[:], at) || strings.HasPrefix(at.chain, bucketPrefix) || strings.HasPrefix(at.chain, netPrefix) {
					slices.Sort(m.chains[at])
				}
			}
			text := make(map[string][]string)
			for at, rules := range m.chains {
				text[at.table+" "+at.chain] = rules
			}
			for at, rules := range m.leads {
				text[at.table+" "+at.chain] = rules
			}
			all[family(ipv6)] = text
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// key parses "192.0.2.1 tcp 8080".
func key(text string) rules.FrontendKey {
	var addr, protocol string
	var port uint16
	if _, err := fmt.Sscan(text, &addr, &protocol, &port); err != nil {
		panic(err)
	}
	k := rules.FrontendKey{Addr: netip.MustParseAddr(addr), Protocol: rules.TCP, Port: port}
	if protocol == "udp" {
		k.Protocol = rules.UDP
	}
	return k
}

func owner(gateway, listener, route string) rules.Owner {
	return rules.Owner{Gateway: gateway, Listener: listener, Route: route}
}

func backend(ref string, weight uint32, endpoints ...rules.Endpoint) rules.Backend {
	return rules.Backend{Ref: ref, Weight: weight, Endpoints: endpoints}
}

func endpoint(addr string) rules.Endpoint {
	return rules.Endpoint{Addr: netip.MustParseAddrPort(addr)}
}

func local(addr string) rules.Endpoint {
	e := endpoint(addr)
	e.Local = true
	return e
}

type frontends = map[rules.FrontendKey]*rules.Frontend

// stateOf makes a State whose Gateways all have the digest "d".
func stateOf(of frontends) *rules.State {
	digests := make(map[string]string)
	for _, f := range of {
		digests[f.Owner.Gateway] = "d"
	}
	return rules.NewState(of, digests)
}

// world makes random States.
type world struct{ *rand.Rand }

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 0))} }

func (w world) state() *rules.State {
	return rulestest.State(w.Rand).WithExclusive(rulestest.Exclusive(w.Rand))
}

// manyFrontends are n listeners of one Gateway with two endpoints each.
func manyFrontends(n int) *rules.State {
	all := make(frontends, n)
	for i := range n {
		k := rules.FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: rules.TCP, Port: uint16(1024 + i)}
		pod := func(j int) rules.Endpoint {
			return rules.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(j), byte(i >> 8), byte(i)}), 6000)}
		}
		all[k] = &rules.Frontend{Owner: owner("ns/gw", fmt.Sprint("l", i), "ns/r"), Backends: []rules.Backend{
			backend("ns/svc", 1, pod(1), pod(2)),
		}}
	}
	return stateOf(all)
}

// present reads what is in a family.
func (k *kernel) present(c Config) (m image, err error) {
	err = inside(c.NetNS, func() error {
		m, err = k.read(context.Background())
		return err
	})
	return m, err
}
