package rules

// MaxShareError bounds how far the share of a backendRef, and the refused share,
// may be from weight / sum of weights: 1/1000, that is 0.1 percentage points.
const MaxShareError = 0.001

const maxShareErrorInverse = 1000 // 1 / MaxShareError, for integer arithmetic

// evenEnough slots per endpoint make the difference of one slot small enough
// (1/8) that more slots are not worth their memory.
const evenEnough = 8

// share is what one backendRef, or all that is refused, gets of the slots.
type share struct {
	weight int64 // > 0
	parts  int64 // endpoints it is split over; 1 for what is refused
}

// slotCount chooses the rung for a set of shares.
//
//  1. The smallest rung on which every endpoint's share is exact, if there is one.
//  2. Otherwise, among the rungs on which every share is within MaxShareError and
//     none is empty, the smallest up to evenLimit on which endpoints of one
//     backendRef differ by at most 1/evenEnough, or else differ least.
//  3. Where that leaves an endpoint without a slot, larger rungs are tried; where
//     no rung has room for all, the smallest within the bound is taken and some
//     endpoints of the backendRef with too many of them stay without a slot.
func slotCount(shares []share) int {
	if rung, ok := rungFor(commonDenominator(shares)); ok {
		return rung
	}
	best, bestScore, smallest := 0, int64(-1), 0
	for _, rung := range ladder {
		counts, ok := apportion(shares, rung)
		if !ok {
			continue
		}
		if smallest == 0 {
			smallest = rung
		}
		score := evenness(shares, counts)
		if rung > evenLimit && bestScore > 0 {
			break
		}
		if score > bestScore {
			best, bestScore = rung, score
		}
		if score == evenEnough {
			break
		}
	}
	if bestScore <= 0 {
		return smallest
	}
	return best
}

// commonDenominator is the smallest N on which weight/total/parts is a whole
// number of slots for every share, or anything > MaxSlots when it is larger.
func commonDenominator(shares []share) int64 {
	total := totalWeight(shares)
	lcm := int64(1)
	for _, s := range shares {
		d := total * s.parts
		d /= gcd(s.weight, d)
		lcm = lcm / gcd(lcm, d) * d
		if lcm > MaxSlots {
			return lcm
		}
	}
	return lcm
}

// apportion divides n slots. ok is false when that misses MaxShareError.
func apportion(shares []share, n int) (counts []int64, ok bool) {
	total, slots := totalWeight(shares), int64(n)
	counts = divide(shares, n)
	for i, s := range shares {
		if counts[i] < 1 || abs(counts[i]*total-s.weight*slots)*maxShareErrorInverse > slots*total {
			return nil, false
		}
	}
	return counts, true
}

// divide splits n slots by weight with the largest-remainder method, at least one to
// each share if there are as many.
func divide(shares []share, n int) []int64 {
	total, slots := totalWeight(shares), int64(n)
	counts := make([]int64, len(shares))
	left := slots
	for i, s := range shares {
		counts[i] = max(s.weight*slots/total, 1)
		left -= counts[i]
	}
	for ; left != 0; left -= sign(left) {
		counts[furthest(shares, counts, slots, total, sign(left))] += sign(left)
	}
	return counts
}

// furthest returns the share whose count is furthest below (direction 1) or above
// (-1) its exact value; the first of equals, so that the result is stable.
func furthest(shares []share, counts []int64, slots, total, direction int64) int {
	best, bestGap := 0, int64(0)
	for i, s := range shares {
		gap := direction * (s.weight*slots - counts[i]*total)
		if direction < 0 && counts[i] == 1 {
			continue // weight > 0 never gets nothing
		}
		if i == 0 || gap > bestGap || (direction < 0 && counts[best] == 1) {
			best, bestGap = i, gap
		}
	}
	return best
}

// evenness is the least number of whole slots an endpoint has where another
// endpoint of its backendRef has one more; evenEnough when there is no such case.
func evenness(shares []share, counts []int64) int64 {
	least := int64(evenEnough)
	for i, s := range shares {
		if counts[i]%s.parts != 0 {
			least = min(least, counts[i]/s.parts)
		}
	}
	return least
}

func totalWeight(shares []share) int64 {
	total := int64(0)
	for _, s := range shares {
		total += s.weight
	}
	return total
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func abs(a int64) int64 { return max(a, -a) }

func sign(a int64) int64 {
	if a < 0 {
		return -1
	}
	return 1
}
