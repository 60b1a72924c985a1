package owner

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// weight is that of a node for an address in rendezvous hashing (Thaler and
// Ravishankar, 1998). Both hashes go through the finalizer of SplitMix64, without which
// FNV ranks similar names similarly.
func weight(node, address uint64) uint64 { return mix(node ^ mix(address)) }

func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func hashName(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return mix(h.Sum64())
}

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return mix(binary.BigEndian.Uint64(b[:8])) ^ mix(^binary.BigEndian.Uint64(b[8:]))
}
