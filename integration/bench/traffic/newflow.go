package traffic

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portway-dev/portway/rules"
)

// Plan is how much of a measurement is done.
type Plan struct {
	Rounds   int
	UDP, TCP Turns
}

// Turns are those of a round.
type Turns struct {
	Count int
	// Lead is how many flows a turn opens before those that are measured: after others had
	// the processor's caches, they bring back what the caches hold on a node with nobody else's
	// rules.
	Lead int
	// Flows are measured; of TCP a multiple of 16.
	Flows int
}

// all are the flows of a round.
func (t Turns) all() int { return t.Count * (t.Lead + t.Flows) }

// loadAll loads the subjects for protocols, at the same time; those that this machine cannot
// have are told to skip.
func loadAll(subjects []Subject, size Size, cpu int, skip func(Subject, error), protocols ...rules.Protocol) ([]*Loaded, error) {
	all := make([]*Loaded, len(subjects))
	errs := make([]error, len(subjects))
	var loading sync.WaitGroup
	for i, subject := range subjects {
		loading.Go(func() {
			begin := time.Now()
			all[i], errs[i] = subject.Load(size, cpu, protocols...)
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
	var senders []*Datagrams
	defer func() {
		for _, d := range senders {
			_ = d.Close() // nothing is pending
		}
	}()
	for _, l := range all {
		d, err := newDatagrams(l.Site, plan.UDP.all(), listeners, l.Routed)
		if err != nil {
			return nil, l.failed(err)
		}
		senders = append(senders, d)
	}
	return rounds(all, plan.Rounds, func(round int) ([][]float64, error) {
		before := make([]int, len(all))
		for i, l := range all {
			senders[i].Rewind()
			var err error
			if before[i], err = l.Arrived(); err != nil {
				return nil, l.failed(err)
			}
		}
		took, err := Interleave(len(all), plan.UDP.Count, func(i int) (float64, error) {
			if err := senders[i].Send(plan.UDP.Lead); err != nil {
				return 0, all[i].failed(err)
			}
			cost, err := clock.per(plan.UDP.Flows, nil, senders[i].Send)
			return cost, all[i].failed(err)
		})
		if err != nil {
			return nil, err
		}
		for i, l := range all {
			err := l.got(plan.UDP.all(), before[i])
			if err == nil && round == 0 {
				err = l.spread(plan.UDP.all(), plan.UDP.all(), listeners)
			}
			if err != nil {
				return nil, l.failed(err)
			}
		}
		return took, nil
	})
}

// got returns an error unless the backend has got as many packets more than before.
func (l *Loaded) got(packets, before int) error {
	after, err := l.Arrived()
	if err == nil && after-before != packets {
		err = fmt.Errorf("%d of %d datagrams arrived", after-before, packets)
	}
	return err
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
				return nil, l.failed(err)
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
		took, err := Interleave(len(all), plan.TCP.Count, func(i int) (cost float64, err error) {
			err = all[i].Client.Do(func() error {
				if err := open[i](plan.TCP.Lead); err != nil {
					return err
				}
				return counters.during(&counts[i], func() error {
					cost, err = clock.per(plan.TCP.Flows, processes[i], open[i])
					return err
				})
			})
			return cost, all[i].failed(err)
		})
		if err != nil {
			return nil, err
		}
		for i, l := range all {
			if round > 0 {
				counters.note(events, l.Name, counts[i], plan.TCP.Count*plan.TCP.Flows)
				continue
			}
			// A tenth may have had the port of one before (tcp_tw_reuse), and its flow.
			if err := l.spread(plan.TCP.all()*9/10, plan.TCP.all(), l.Listeners); err != nil {
				return nil, l.failed(err)
			}
		}
		return took, nil
	})
	if costs != nil {
		costs.Events = events
	}
	return costs, err
}
