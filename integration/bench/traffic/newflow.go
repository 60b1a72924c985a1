package traffic

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Plan is how much of a measurement is done.
type Plan struct {
	Rounds int
	// Turns of a round, and in each the packets and connections of each subject. The
	// connections are a multiple of 16.
	Turns, Packets, Connections int
}

// Costs are processor time per flow, in ns: by subject the median of each round; and by two
// subjects the median of each round of their difference, and of their ratio, in the same turn.
type Costs struct {
	Of        map[string][]float64
	Over, Per map[[2]string][]float64
	// Events are what the hardware counted per flow, by event and subject, for each round.
	Events map[string]map[string][]float64
}

// loadAll loads the subjects, at the same time; those that this machine cannot have are
// told to skip.
func loadAll(subjects []Subject, size Size, cpu int, skip func(Subject, error)) ([]*Loaded, error) {
	all := make([]*Loaded, len(subjects))
	errs := make([]error, len(subjects))
	var loading sync.WaitGroup
	for i, subject := range subjects {
		loading.Go(func() {
			begin := time.Now()
			all[i], errs[i] = subject.Load(size, cpu)
			fmt.Printf("%s: %s loaded in %s\n", size, subject.Name, time.Since(begin).Round(time.Millisecond))
		})
	}
	loading.Wait()
	for i, err := range errs {
		if missing := (*Unavailable)(nil); errors.As(err, &missing) {
			skip(subjects[i], missing)
			errs[i] = nil
		}
	}
	err := errors.Join(errs...)
	var there []*Loaded
	for _, l := range all {
		if l != nil {
			there = append(there, l)
		}
	}
	if err != nil {
		for _, l := range there {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	return there, nil
}

// measureUDP sends to all that are no proxies, of each to a number of its listeners.
func measureUDP(all []*Loaded, plan Plan, clock *Clock, listeners int) (*Costs, error) {
	var there []*Loaded
	var senders []*Datagrams
	defer func() {
		for _, d := range senders {
			_ = d.Close() // nothing is pending
		}
	}()
	for _, l := range all {
		if l.Proxy {
			continue
		}
		d, err := newDatagrams(l.Site, plan.Turns*plan.Packets, listeners, l.Routed)
		if err != nil {
			return nil, err
		}
		there, senders = append(there, l), append(senders, d)
	}
	return rounds(there, plan.Rounds, func(int) ([][]float64, error) {
		before := make([]int, len(there))
		for i, l := range there {
			senders[i].Rewind()
			var err error
			if before[i], err = l.Arrived(); err != nil {
				return nil, err
			}
		}
		took, err := Interleave(len(there), plan.Turns, func(i int) (float64, error) {
			return clock.per(plan.Packets, nil, senders[i].Send)
		})
		for i, l := range there {
			got, arrived := l.Arrived()
			if want := plan.Turns * plan.Packets; err == nil && got-before[i] != want {
				err = fmt.Errorf("%s: %d of %d datagrams arrived", l.Name, got-before[i], want)
			}
			err = errors.Join(err, arrived)
		}
		return took, err
	})
}

// measureTCP connects to all, in one of two ways: with a server that is a process and
// answers, or by both ends in one thread, see Connections. Without counters no events are
// counted.
func measureTCP(all []*Loaded, plan Plan, clock *Clock, counters *Counters, served bool) (*Costs, error) {
	clients := make([]*Connections, len(all))
	open := make([]func(int) error, len(all))
	processes := make([][]int, len(all))
	for i, l := range all {
		clients[i] = NewConnections(l.Site, l.Routed)
		open[i], processes[i] = clients[i].Open, l.Proxies
		if served {
			server, pid, err := l.serve()
			if err != nil {
				return nil, err
			}
			defer server.Kill()
			open[i], processes[i] = clients[i].Exchange, append([]int{pid}, l.Proxies...)
		}
	}
	events := map[string]map[string][]float64{}
	costs, err := rounds(all, plan.Rounds, func(round int) ([][]float64, error) {
		for _, c := range clients {
			c.Rewind(round)
		}
		counts := make([][]uint64, len(all))
		took, err := Interleave(len(all), plan.Turns, func(i int) (cost float64, err error) {
			err = all[i].Client.Do(func() error {
				return counters.during(&counts[i], func() error {
					cost, err = clock.per(plan.Connections, processes[i], open[i])
					return err
				})
			})
			if err != nil {
				err = fmt.Errorf("%s: %w", all[i].Name, err)
			}
			return cost, err
		})
		if round > 0 {
			for i, l := range all {
				counters.note(events, l.Name, counts[i], plan.Turns*plan.Connections)
			}
		}
		return took, err
	})
	if costs != nil {
		costs.Events = events
	}
	return costs, err
}

// per is the processor time for one of what a function does a number of.
func (c *Clock) per(count int, proxies []int, do func(int) error) (float64, error) {
	before, err := c.Now(proxies...)
	if err != nil {
		return 0, err
	}
	if err := do(count); err != nil {
		return 0, err
	}
	after, err := c.Now(proxies...)
	return float64(after-before) / float64(count), err
}

// rounds measures a round after the other. One more before them is not counted: it fills
// caches and tables, and resolves neighbours.
func rounds(all []*Loaded, count int, measure func(round int) ([][]float64, error)) (*Costs, error) {
	c := &Costs{Of: map[string][]float64{}, Over: map[[2]string][]float64{}, Per: map[[2]string][]float64{}}
	for round := range count + 1 {
		took, err := measure(round)
		if err != nil {
			return nil, err
		}
		for _, l := range all {
			if err := l.Forget(); err != nil {
				return nil, err
			}
		}
		if round == 0 {
			continue
		}
		for i, l := range all {
			c.Of[l.Name] = append(c.Of[l.Name], median(took[i]))
			for j, other := range all {
				if i != j {
					pair := [2]string{l.Name, other.Name}
					c.Over[pair] = append(c.Over[pair], paired(took[i], took[j], func(a, b float64) float64 { return a - b }))
					c.Per[pair] = append(c.Per[pair], paired(took[i], took[j], func(a, b float64) float64 { return a / b }))
				}
			}
		}
	}
	return c, nil
}
