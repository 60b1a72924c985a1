package topology

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Announcement is an address that nodes are to answer for on their network: one that
// Gateways have of a pool with announcement Layer2.
type Announcement struct {
	// Pool that says who announces it, and on which interfaces.
	Pool *Pool
	// Gateways that have the address; several where they share it. They need not be
	// accepted: who connects then is refused, and not left to wait, and the
	// address does not move for what is being corrected.
	Gateways []*Gateway

	local []localPort // what traffic needs an endpoint for on the node it enters
	far   bool        // some traffic needs none
}

// localPort is a Service port with externalTrafficPolicy Local.
type localPort struct {
	service types.NamespacedName
	port    portKey
}

// NeedsEndpoints reports whether Forwarder.Serves depends on endpoints.
func (a *Announcement) NeedsEndpoints() bool { return len(a.local) > 0 }

// Announcements returns what nodes are to answer for, by address.
func (g *Graph) Announcements() map[netip.Addr]*Announcement {
	all := map[netip.Addr]*Announcement{}
	for _, gateway := range g.Gateways {
		if gateway.Parameters == nil || gateway.Parameters.Mode != v1alpha1.AddressModePool || !gateway.Assignment.exclusive() {
			continue
		}
		for _, addr := range gateway.Assignment.Addresses {
			addr = addr.Unmap()
			pool := gateway.Parameters.holder(addr)
			if pool == nil || !pool.Announced.Layer2 {
				continue
			}
			if all[addr] == nil {
				all[addr] = &Announcement{Pool: pool}
			}
			all[addr].add(gateway)
		}
	}
	return all
}

func (a *Announcement) add(g *Gateway) {
	a.Gateways = append(a.Gateways, g)
	for _, listener := range g.Listeners {
		protocol, ok := listener.TransportProtocol()
		if !ok || !listener.Valid || listener.Winner == nil {
			continue
		}
		for _, ref := range listener.Winner.Backends {
			switch {
			case !ref.Valid || ref.Weight == 0: // refused everywhere, or no traffic
			case ref.LocalOnly:
				a.local = append(a.local, localPort{ref.Service, portKey{ref.PortName, protocol}})
			default:
				a.far = true
			}
		}
	}
}

// Selects reports whether a node with these labels may announce addresses of the pool.
func (a Announced) Selects(node labels.Set) bool {
	return a.Layer2 && (a.Nodes == nil || a.Nodes.Matches(node))
}

// Serves reports whether the node is one where an announced address may enter, for its
// endpoints: traffic to Services with externalTrafficPolicy Local gets no further than
// the node. Nodes are compared by what EndpointSlices say, so that all come to the same:
// those with a local endpoint for every such Service that has any; where no node has
// that, those with one for any of them. When none of the Services has an endpoint, nodes
// serve if there is other traffic, else nobody does. It goes by what was set before the
// last State.
func (f *Forwarder) Serves(addr netip.Addr, a *Announcement) bool {
	family := familyOf(addr)
	wanted, on := 0, map[string]int{} // Services that have endpoints; of them on each node
	for i, local := range a.local {
		if s := f.services[local.service]; s != nil && !slices.Contains(a.local[:i], local) {
			nodes := s.nodes(local.port)[family]
			if len(nodes) > 0 {
				wanted++
			}
			for node := range nodes {
				on[node]++
			}
		}
	}
	if wanted == 0 {
		return a.far || len(a.local) == 0
	}
	most := 1
	for _, n := range on {
		if n == wanted {
			most = n
		}
	}
	return on[f.node.Name] >= most
}
