package layer2

import (
	"container/heap"
	"time"
)

// agenda orders what is to be done by when it is due.
type agenda []*entry

// Len, Less, Swap, Push and Pop are for package heap.
func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }

func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

func (a *agenda) Push(x any) {
	e, _ := x.(*entry) // nobody else calls it
	e.index = len(*a)
	*a = append(*a, e)
}

func (a *agenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	e.index = -1
	return e
}

// plan puts an entry on the agenda, or moves it there.
func (a *agenda) plan(e *entry, due time.Time) {
	e.due = due
	if e.index < 0 {
		heap.Push(a, e)
	} else {
		heap.Fix(a, e.index)
	}
}

// drop takes an entry off the agenda.
func (a *agenda) drop(e *entry) {
	if e.index >= 0 {
		heap.Remove(a, e.index)
	}
}

// pace limits a rate: a bucket of tokens that fills with time.
type pace struct {
	rate, burst float64
	tokens      float64
	at          time.Time
}

func newPace(rate, burst int, now time.Time) *pace {
	return &pace{rate: float64(rate), burst: float64(burst), tokens: float64(burst), at: now}
}

// refill adds what has come since, and returns how long to wait for one token.
func (p *pace) refill(now time.Time) time.Duration {
	p.tokens = min(p.burst, p.tokens+now.Sub(p.at).Seconds()*p.rate)
	p.at = now
	if p.tokens >= 1 {
		return 0
	}
	// Not token by token: that many timers would cost more than what they pace.
	wanted := min(p.burst, max(1, p.rate/100))
	return time.Duration((wanted - p.tokens) / p.rate * float64(time.Second))
}
