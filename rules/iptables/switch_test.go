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
		s := stateOf(l.listener(rules.TCP, []uint32{1}, "near-1 near-2 far"))
		mustProgram(l.t, l.p, s)
		to := netip.AddrPortFrom(netns.NodeAddr4, 80)
		conn, err := l.Client.Dial(netip.AddrPort{}, to)
		if err != nil {
			l.t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		load := l.Client.StartLoad(to)
		started, switches := time.Now(), 0
		for ; time.Since(started) < 3*time.Second; switches++ {
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
		took := time.Since(started)
		tally, err := load.Stop()
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Logf("%d switches, %d connections/s, %s", 2*switches, tally.Total()*int(time.Second)/int(took), tally)
		if tally.Answered() != tally.Total() || tally.Resent > 0 {
			l.t.Errorf("during %d switches: %s", 2*switches, tally)
		}
		if err := conn.Echo("still here"); err != nil {
			l.t.Errorf("the established connection: %v", err)
		}
	})
}
