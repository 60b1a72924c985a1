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

func profileOf(t Traffic) profile {
	var p profile
	for key, f := range t.State.All() {
		p.v4, p.v6 = p.v4 || key.Addr.Is4(), p.v6 || key.Addr.Is6()
		p.tcp, p.udp = p.tcp || key.Protocol == rules.TCP, p.udp || key.Protocol == rules.UDP
		for i := range f.Backends {
			for _, e := range f.Backends[i].Endpoints {
				if e.Local && slices.Contains(t.Addresses, e.Addr.Addr()) {
					p.host4, p.host6 = p.host4 || e.Addr.Addr().Is4(), p.host6 || e.Addr.Addr().Is6()
				}
			}
		}
	}
	return p
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
