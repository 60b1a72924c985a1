package syncloop

import "time"

// restShare is how many times as long as a run took a loop rests that is told the same again and again.
const restShare = 3

// Rest is how long a loop lets pass after a run that took so long, most at most, before news that can wait
// lead to another: a run that is about a whole cluster would otherwise follow each of a thousand changes.
func Rest(took, most time.Duration) time.Duration { return min(restShare*took, most) }
