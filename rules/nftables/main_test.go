package nftables

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { netns.Main(m) }

// inNamespace returns a fresh namespace and the Config to work in it.
func inNamespace(tb testing.TB) (*netns.Namespace, Config) {
	tb.Helper()
	ns := netns.ForTest(tb, "node")
	c := DefaultConfig()
	c.NetNS = ns.Handle()
	return ns, c
}

func newProgrammer(tb testing.TB, c Config) *Programmer {
	tb.Helper()
	p, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// mustProgram expects success and returns the number of operations.
func mustProgram(tb testing.TB, p *Programmer, s *rules.State) int {
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
	return results.Operations
}

func nft(tb testing.TB, ns *netns.Namespace, args ...string) string {
	tb.Helper()
	out, err := ns.Output("nft", args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
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

func endpoint(addr, name string) rules.Endpoint {
	return rules.Endpoint{Addr: netip.MustParseAddrPort(addr), Name: name}
}

func local(addr, name string) rules.Endpoint {
	e := endpoint(addr, name)
	e.Local = true
	return e
}

// stateOf makes a State whose Gateways all have the digest "d".
func stateOf(frontends map[rules.FrontendKey]*rules.Frontend) *rules.State {
	digests := make(map[string]string)
	for _, f := range frontends {
		digests[f.Owner.Gateway] = "d"
	}
	return rules.NewState(frontends, digests)
}
