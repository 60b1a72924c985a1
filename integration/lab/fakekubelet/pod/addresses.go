package pod

import (
	"errors"
	"net/netip"
	"sync"
)

// addresses hands out the pod addresses of a node. An address that was given back
// is the last to be given out again.
type addresses struct {
	ranges []netip.Prefix

	mu   sync.Mutex
	next int // offset into the ranges; 0 is never used, 1 is the gateway
	used map[int]bool
}

const (
	gatewayOffset = 1
	firstOffset   = 2
	lastOffset    = 254
)

func newAddresses(ranges []netip.Prefix) *addresses {
	return &addresses{ranges: ranges, next: firstOffset, used: map[int]bool{}}
}

// take returns one address per family and the number to give them back by.
func (a *addresses) take() (int, []netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range lastOffset - firstOffset + 1 {
		offset := a.next
		if a.next++; a.next > lastOffset {
			a.next = firstOffset
		}
		if a.used[offset] {
			continue
		}
		a.used[offset] = true
		return offset, a.at(offset), nil
	}
	return 0, nil, errors.New("no pod address is free")
}

func (a *addresses) gateways() []netip.Addr { return a.at(gatewayOffset) }

// at is one address per range.
func (a *addresses) at(offset int) []netip.Addr {
	var all []netip.Addr
	for _, r := range a.ranges {
		bytes := r.Addr().AsSlice()
		bytes[len(bytes)-1] += byte(offset)
		addr, _ := netip.AddrFromSlice(bytes)
		all = append(all, addr)
	}
	return all
}

func (a *addresses) give(offset int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, offset)
}
