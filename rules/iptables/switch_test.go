package iptables

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

// How often a node changes its backend there and back at least, and how many connections are
// opened meanwhile for each time: as many as heavy traffic brings in a second.
const (
	minSwitches = 3
	switchLoad  = 2000
)

// A node changes its backend under traffic, again and again in both directions: the new
// one programs, then the old one is removed. No connection is refused or sent twice, one
// that is established goes on, and nothing is left of the old one.
func TestSwitchOfBackendsRefusesNothing(t *testing.T) {
	eachLab(t, func(l *lab) {
		config := nftables.DefaultConfig()
		config.NetNS = l.Node.Handle()
		table, err := nftables.New(config)
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = table.Close() })
		s := stateOf(l.listener(rules.TCP, []uint32{1}, "near-1 near-2 far")).WithExclusive(nodeAddrs)
		mustProgram(l.t, l.p, s)
		to := netip.AddrPortFrom(netns.NodeAddr4, 80)
		conn, err := l.Client.Dial(netip.AddrPort{}, to)
		if err != nil {
			l.t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var loads [4]*netns.Load
		for i := range loads {
			loads[i] = l.Client.StartLoad(to)
		}
		opened := func() (n int64) {
			for _, load := range loads {
				n += load.Opened()
			}
			return n
		}
		started, switches := time.Now(), 0
		for ; (switches < minSwitches || opened() < minSwitches*switchLoad) && time.Since(started) < time.Minute; switches++ {
			if _, err := table.Program(l.t.Context(), s); err != nil {
				l.t.Fatal(err)
			}
			if err := Remove(l.t.Context(), l.c); err != nil {
				l.t.Fatal(err)
			}
			if left := saved(l.t, l.Node, l.c.Variant); strings.Contains(left, prefix) {
				l.t.Errorf("left of iptables:\n%s", left)
			}
			mustProgram(l.t, newProgrammer(l.t, l.c), s)
			if err := table.Cleanup(l.t.Context()); err != nil {
				l.t.Fatal(err)
			}
		}
		l.t.Logf("%d switches, %d connections/s", 2*switches, opened()*int64(time.Second)/int64(time.Since(started)))
		for _, load := range loads {
			tally, err := load.Stop()
			if err != nil || tally.Answered() != tally.Total() || tally.Resent > 0 {
				l.t.Errorf("during %d switches: %s (%v)", 2*switches, tally, err)
			}
		}
		if opened() < minSwitches*switchLoad {
			l.t.Errorf("%d connections during %d switches are too few to tell", opened(), 2*switches)
		}
		if err := conn.Echo("still here"); err != nil {
			l.t.Errorf("the established connection: %v", err)
		}
	})
}
