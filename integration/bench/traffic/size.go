package traffic

import (
	"fmt"
	"net/netip"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

const (
	// firstPort is that of the first listener.
	firstPort = 20_000
	// endpointPort is where all endpoints listen.
	endpointPort = 8080
	// pods is how many addresses the endpoints have: as many as a kubelet runs pods
	// (maxPods), since all of them are on one node.
	pods = 110
)

// endpoints holds the addresses of all endpoints.
var endpoints = netip.MustParsePrefix("10.128.0.0/24")

// both are the protocols that there are.
var both = []rules.Protocol{rules.UDP, rules.TCP}

// Size is how much a subject forwards: listeners at the node's address, for each protocol,
// each with as many endpoints. A pod is an endpoint of many listeners.
type Size struct{ Listeners, Endpoints int }

// String returns the size as "1000x10".
func (s Size) String() string { return fmt.Sprintf("%dx%d", s.Listeners, s.Endpoints) }

// Listener is where a client finds a listener.
func (s Size) Listener(i int) netip.AddrPort {
	return netip.AddrPortFrom(netns.NodeAddr4, uint16(firstPort+i))
}

// Endpoint is one of a listener.
func (s Size) Endpoint(listener, n int) netip.AddrPort {
	a := endpoints.Addr().As4()
	a[3] = byte(10 + (listener*s.Endpoints+n)%pods)
	return netip.AddrPortFrom(netip.AddrFrom4(a), endpointPort)
}

// destination is where the nth flow of a client goes: over all listeners, or endpoints, in
// an order that no cache foresees.
func (s Size) destination(n, listeners int, routed bool) netip.AddrPort {
	const step = 7919 // a prime, and none of a size
	i := n * step % listeners
	if !routed {
		return s.Listener(i)
	}
	return s.Endpoint(i, n*step/listeners%s.Endpoints)
}

// state is what the agent hands to the kernel for the size. All endpoints run on the node,
// so that nobody translates the source.
func (s Size) state(protocols ...rules.Protocol) *rules.State {
	frontends := make(map[rules.FrontendKey]*rules.Frontend, s.Listeners*len(protocols))
	for i := range s.Listeners {
		backend := rules.Backend{Ref: fmt.Sprintf("default/service-%d", i), Weight: 1}
		for n := range s.Endpoints {
			backend.Endpoints = append(backend.Endpoints, rules.Endpoint{
				Addr: s.Endpoint(i, n), Name: fmt.Sprintf("service-%d-%d", i, n), Local: true,
			})
		}
		for _, protocol := range protocols {
			selection, at := rules.Random, s.Listener(i)
			if protocol == rules.UDP {
				selection = rules.FlowHash
			}
			key := rules.FrontendKey{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
			owner := rules.Owner{Gateway: fmt.Sprintf("default/gateway-%d", i/64), Listener: protocol.String(), Route: backend.Ref}
			frontends[key] = &rules.Frontend{Owner: owner, Select: selection, Backends: []rules.Backend{backend}}
		}
	}
	return rules.NewState(frontends, nil)
}
