package traffic

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Costs are processor time per flow, in ns: by subject the median of each round; and by two
// subjects the median of each round of their difference, and of their ratio, in the same turn.
type Costs struct {
	Of        map[string][]float64
	Over, Per map[[2]string][]float64
	// Events are what the hardware counted per flow, by event and subject, for each round.
	Events map[string]map[string][]float64
}

// A failure is one subject's; the others can do without it.
type failure struct {
	subject string
	err     error
}

// Error begins with the subject.
func (f *failure) Error() string { return f.subject + ": " + f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// failed makes an error the subject's.
func (s Subject) failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{s.Name, err}
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
	for _, l := range all { // what a failure may have left
		if err := l.Forget(); err != nil {
			return nil, l.failed(err)
		}
	}
	for round := range count + 1 {
		took, err := measure(round)
		if err != nil {
			return nil, err
		}
		for _, l := range all {
			if err := l.Forget(); err != nil {
				return nil, l.failed(err)
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

// spread returns an error unless the node follows as many flows, and they have gone to a number of
// listeners' endpoints and not to a few of them: half of them at least, as endpoints are drawn.
func (l *Loaded) spread(least, most, listeners int) error {
	followed, endpoints, err := l.followed()
	if err != nil || l.Proxy || l.untracked {
		return err
	}
	wanted := 1
	if l.Name != StaticDNAT {
		wanted = min(pods, min(listeners, l.Listeners)*l.Endpoints)
	}
	if followed < least || followed > most || endpoints > wanted || endpoints < (wanted+1)/2 {
		return fmt.Errorf("the node follows %d flows to %d endpoints, want %d … %d to %d", followed, endpoints, least, most, wanted)
	}
	return nil
}

// followed returns how many of the client's flows the node follows, and to how many addresses.
func (l *Loaded) followed() (count, addresses int, err error) {
	var flows []*netlink.ConntrackFlow
	if err := l.Node.Do(func() (err error) {
		flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		return err
	}); err != nil {
		return 0, 0, err
	}
	at := map[netip.Addr]bool{}
	for _, flow := range flows {
		from, _ := netip.AddrFromSlice(flow.Forward.SrcIP)
		if to, _ := netip.AddrFromSlice(flow.Reverse.SrcIP); clients.Contains(from.Unmap()) {
			count++
			at[to.Unmap()] = true
		}
	}
	return count, len(at), nil
}
