package rules

import (
	"hash/maphash"
	"reflect"
)

// shardSeed only spreads keys over shards; no result depends on it.
var shardSeed = maphash.MakeSeed()

func shardOf(key FrontendKey) int {
	return int(maphash.Comparable(shardSeed, key) % shardCount)
}

// SameMap reports whether two maps are one object, which for immutable maps means
// equal without a look inside.
func SameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}
