package layer2

import (
	"errors"
	"fmt"
	"net/netip"
)

// fit opens and closes sockets, groups and filters so that they fit what is to be heard.
func (r *Responder) fit() {
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return
	}
	r.dirty = false
	needs := r.needs()
	var ports []*port
	var ears []*ear
	for index, p := range r.ports {
		if needs[index] == nil || p.failed.Load() {
			ports = append(ports, p)
			delete(r.ports, index)
		}
	}
	var errs []error
	for index, n := range needs {
		p := r.ports[index]
		if p == nil {
			p = &port{groups: newGroups(index)}
			r.ports[index] = p
		}
		left, err := p.fit(n, r.heard)
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", n.link.name, err))
		}
		ears = append(ears, left...)
	}
	r.unopened = errors.Join(errs...)
	r.dirty = r.unopened != nil
	// Their goroutines may be waiting for the lock.
	r.mu.Unlock()
	for _, p := range ports {
		p.close()
	}
	for _, e := range ears {
		e.close()
	}
}

// need is what is to be heard on one interface.
type need struct {
	link   *link
	v4, v6 []netip.Addr
	groups map[netip.Addr]bool
}

func (r *Responder) needs() map[int]*need {
	out := map[int]*need{}
	add := func(address netip.Addr, links []*link, join bool) {
		for _, l := range links {
			n := out[l.index]
			if n == nil {
				n = &need{link: l, groups: map[netip.Addr]bool{}}
				out[l.index] = n
			}
			if address.Is4() {
				n.v4 = append(n.v4, address)
				continue
			}
			n.v6 = append(n.v6, address)
			if join {
				n.groups[solicitedNode(address)] = true
			}
		}
	}
	for address, e := range r.entries {
		add(address, e.links, true)
	}
	for q := range r.queries {
		for address := range q.macs {
			add(address, q.links[address], false)
		}
	}
	return out
}
