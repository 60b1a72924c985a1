package layer2

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// block is a range of addresses as the filter of a socket compares it: all but the
// last 32 bits equal, and these between two values.
type block struct {
	prefix     [3]uint32 // of IPv6
	first, end uint32    // end is in it
}

// maxBlocks bounds a filter: 10 instructions a block, of 4096 that a program may have,
// and one pass of a few ns over all of them for every message of a stranger.
const maxBlocks = 32

// blocks covers addresses of one family with at most so many blocks. It leaves out the
// widest gaps, so that of others as few as possible are in them. It is false when
// there are too many prefixes: then nothing can be left out.
func blocks(addresses []netip.Addr, limit int) ([]block, bool) {
	all := make([]block, 0, len(addresses))
	for _, a := range addresses {
		var b block
		bytes := a.AsSlice()
		for i := 0; len(bytes) > 4; i, bytes = i+1, bytes[4:] {
			b.prefix[i] = binary.BigEndian.Uint32(bytes)
		}
		b.first = binary.BigEndian.Uint32(bytes)
		b.end = b.first
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b block) int {
		return cmp.Or(slices.Compare(a.prefix[:], b.prefix[:]), cmp.Compare(a.first, b.first))
	})
	var gaps []uint32
	prefixes := 0
	for i := range all {
		if i == 0 || all[i].prefix != all[i-1].prefix {
			prefixes++
		} else {
			gaps = append(gaps, all[i].first-all[i-1].end)
		}
	}
	if prefixes > limit {
		return nil, false
	}
	slices.SortFunc(gaps, func(a, b uint32) int { return cmp.Compare(b, a) })
	least := uint32(1) // gaps up to this one are closed
	if keep := limit - prefixes; keep < len(gaps) {
		least = max(least, gaps[keep])
	}
	var out []block
	for _, b := range all {
		last := len(out) - 1
		if last >= 0 && out[last].prefix == b.prefix && b.first-out[last].end <= least {
			out[last].end = b.first
			continue
		}
		out = append(out, b)
	}
	return out, true
}
