package firewall

import (
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// Traffic is what has to pass.
type Traffic struct {
	State *rules.State
	// Addresses are the node's own.
	Addresses []netip.Addr
}

// ofHost reports whether the host has an address: others do not answer at those of pools,
// whatever they listen at or translate.
func (t Traffic) ofHost(addr netip.Addr) bool { return slices.Contains(t.Addresses, addr) }

// destinations are where our flows go after translation. Read when first asked for:
// few hosts have rules that depend on it.
type destinations struct {
	state *rules.State
	asked bool
	addrs map[netip.Addr]struct{}
	ports map[uint16]struct{}
}

func (d *destinations) read() {
	if d.asked {
		return
	}
	d.asked, d.addrs, d.ports = true, map[netip.Addr]struct{}{}, map[uint16]struct{}{}
	for _, f := range d.state.All() {
		for i := range f.Backends {
			for _, e := range f.Backends[i].Endpoints {
				d.addrs[e.Addr.Addr()] = struct{}{}
				d.ports[e.Addr.Port()] = struct{}{}
			}
		}
	}
}

// within reports whether a flow may go into a prefix.
func (d *destinations) within(prefix netip.Prefix) bool {
	d.read()
	if prefix.IsSingleIP() {
		_, ok := d.addrs[prefix.Addr()]
		return ok
	}
	for addr := range d.addrs {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// port reports whether a flow may go to one of a range of ports.
func (d *destinations) port(low, high int) bool {
	d.read()
	for port := range d.ports {
		if low <= int(port) && int(port) <= high {
			return true
		}
	}
	return false
}

// profile is what the walks depend on, but for the destinations: it seldom changes.
type profile struct {
	v4, v6     bool // there are Frontends of the family
	host4      bool // an endpoint has an address of the node
	host6      bool
	tcp, udp   bool
	everything bool // all of the above, whether or not there is any
}

// census counts what a profile depends on. What changes between two States is all that it
// looks at, as long as the node's addresses are the same.
type census struct {
	traffic                        Traffic
	v4, v6, tcp, udp, host4, host6 int
}

// profile of the traffic.
func (c *census) profile(t Traffic) profile {
	if c.traffic.State == nil || !slices.Equal(c.traffic.Addresses, t.Addresses) {
		*c = census{traffic: Traffic{Addresses: t.Addresses}}
	}
	for _, change := range rules.Changes(c.traffic.State, t.State) {
		c.add(change.Key, change.Old, -1)
		c.add(change.Key, change.New, 1)
	}
	c.traffic.State = t.State
	return profile{v4: c.v4 > 0, v6: c.v6 > 0, tcp: c.tcp > 0, udp: c.udp > 0, host4: c.host4 > 0, host6: c.host6 > 0}
}

// add counts a Frontend n times; nil is none.
func (c *census) add(key rules.FrontendKey, f *rules.Frontend, n int) {
	if f == nil {
		return
	}
	count := func(what *int, is bool) {
		if is {
			*what += n
		}
	}
	count(&c.v4, key.Addr.Is4())
	count(&c.v6, key.Addr.Is6())
	count(&c.tcp, key.Protocol == rules.TCP)
	count(&c.udp, key.Protocol == rules.UDP)
	for i := range f.Backends {
		for _, e := range f.Backends[i].Endpoints {
			onHost := e.Local && slices.Contains(c.traffic.Addresses, e.Addr.Addr())
			count(&c.host4, onHost && e.Addr.Addr().Is4())
			count(&c.host6, onHost && e.Addr.Addr().Is6())
		}
	}
}

// packets are those of our flows that a hook sees.
func (p profile) packets(h hook, mark uint32, to *destinations) []*packet {
	var out []*packet
	for _, v6 := range []bool{false, true} {
		has := p.v4
		if v6 {
			has = p.v6
		}
		if h == input {
			has = p.host4
			if v6 {
				has = p.host6
			}
		}
		if !has && !p.everything {
			continue
		}
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			if (protocol == rules.TCP && !p.tcp || protocol == rules.UDP && !p.udp) && !p.everything {
				continue
			}
			for _, established := range []bool{false, true} {
				out = append(out, &packet{
					hook: h, v6: v6, protocol: byte(protocol), established: established, mark: mark, to: to,
				})
			}
		}
	}
	return out
}
