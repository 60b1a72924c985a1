package rules

import "slices"

// ladder holds the slot counts a Frontend can have. A backend creates what it
// needs per rung once, at start, so that no later change adds a rule.
//
// Every count up to 64, so that equal endpoints and small weights are exact with
// no slot to spare; above that, counts with many divisors and the round decimal
// ones people write weights with; the last rungs only serve the extremes: 16
// backendRefs of which 15 have hardly any weight need 15/N ≤ MaxShareError.
var ladder = append(upTo(64),
	70, 72, 75, 80, 84, 90, 96, 100, 105, 108, 110, 112, 120, 126, 128,
	132, 140, 144, 150, 160, 168, 180, 192, 200, 210, 216, 220, 224, 240, 250, 252, 256,
	264, 280, 288, 300, 320, 330, 336, 350, 360, 384, 400, 420, 432, 448, 450, 480, 500, 504, 512,
	540, 560, 576, 600, 630, 640, 660, 672, 700, 720, 750, 768, 800, 840, 896, 900, 960, 1000, 1008, 1024,
	1080, 1200, 1260, 1280, 1440, 1500, 1600, 1680, 1800, 2000, 2048, 2400, 2500, 2520, 3000, 3600, 4000, 4096,
	5040, 8192, 10000, 16384)

func upTo(n int) []int {
	counts := make([]int, 0, 2*n)
	for i := 1; i <= n; i++ {
		counts = append(counts, i)
	}
	return counts
}

// evenLimit is the largest rung taken only to make the endpoints of one
// backendRef more equal; beyond it more slots cost more than evenness is worth.
const evenLimit = 4096

// Ladder returns the slot counts in ascending order.
func Ladder() []int { return slices.Clone(ladder) }

// MaxSlots is the last rung of the ladder: the slot budget of one Frontend.
const MaxSlots = 16384

// rungFor returns the smallest rung that is a multiple of n.
func rungFor(n int64) (int, bool) {
	if n > MaxSlots {
		return 0, false
	}
	for _, rung := range ladder {
		if int64(rung)%n == 0 {
			return rung, true
		}
	}
	return 0, false
}
