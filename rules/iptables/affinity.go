package iptables

import (
	"fmt"

	"github.com/portway-dev/portway/rules"
)

// A client's slot has three digits, each of two halves that xt_cluster draws from the
// client's address by a seed of its own. The seeds decide which client gets which endpoint:
// nodes that differ in them disagree. Nodes with nftables draw another slot.
//
// A half has four values because iptables 1.8 takes no set of numbers that is above 32, not
// even from its own iptables-save, which others may want to restore.
const (
	halves     = 4
	digits     = halves * halves // values of a digit; digits³ = rules.ClientSlots
	digitSeed  = 0x70726f74
	digitSteps = 0x9e3779b9
	anyHalf    = 1<<halves - 1
)

// half matches a client by a set of values of one half of a digit.
func half(number, set uint32) string {
	if set == anyHalf {
		return ""
	}
	return fmt.Sprintf("-m cluster --cluster-total-nodes %d --cluster-local-nodemask %#x --cluster-hash-seed %#x ",
		halves, set, digitSeed+number*digitSteps)
}

// digit matches a client by the value of a digit.
func digit(place, value uint32) string {
	return half(2*place, 1<<(value/halves)) + half(2*place+1, 1<<(value%halves))
}

// affine are the chains that lead a client to its slot of a Layout, entered from a
// listener's chain by the rules returned: by the first digit to one of 16 chains, by the
// second to one of 256, and there by the third to the endpoint.
func affine(key rules.FrontendKey, name, owner string, slots []rules.Slot, c Config) (enter []string, chains []named) {
	for first := range uint32(digits) {
		middle := fmt.Sprintf("%s-%x", name, first)
		enter = append(enter, digit(0, first)+"-g "+middle)
		var text []string
		for second := range uint32(digits) {
			last := fmt.Sprintf("%s%x", middle, second)
			text = append(text, digit(1, second)+"-g "+last)
			at := (first*digits + second) * digits
			chains = append(chains, named{last, hashed(owner, slotRules(key, slots[at:at+digits], c)...)})
		}
		chains = append(chains, named{middle, hashed(owner, text...)})
	}
	return enter, chains
}

// slotRules lead to the endpoints of all slots that have the first two digits in common,
// first to those on this node, as translate wants it. The last one takes all that is left.
func slotRules(key rules.FrontendKey, slots []rules.Slot, c Config) []string {
	var order []outcome
	sets := make(map[outcome]*[halves]uint32) // by the first half, the values of the second one
	for _, local := range []bool{true, false} {
		for third, slot := range slots {
			if slot.Endpoint.Local != local {
				continue
			}
			o := outcome{to: slot.Endpoint.Addr, local: local}
			if sets[o] == nil {
				sets[o] = new([halves]uint32)
				order = append(order, o)
			}
			sets[o][third/halves] |= 1 << (third % halves)
		}
	}
	var to []outcome
	var matches []string
	for _, o := range order[:len(order)-1] {
		for _, match := range rectangles(sets[o]) {
			to, matches = append(to, o), append(matches, match)
		}
	}
	return translate(key, append(to, order[len(order)-1]), append(matches, ""), c)
}

// rectangles are the matches for slots: one for all first halves with the same second ones.
func rectangles(sets *[halves]uint32) []string {
	var out []string
	for first, second := range sets {
		same, known := uint32(0), false
		for other := range sets {
			if sets[other] == second {
				same |= 1 << other
				known = known || other < first
			}
		}
		if second != 0 && !known {
			out = append(out, half(4, same)+half(5, second))
		}
	}
	return out
}
