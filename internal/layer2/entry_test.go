package layer2

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// course lists what an entry sends and when, until its first look for strangers.
func course(e *entry, from time.Time, rounds int) []string {
	config := DefaultConfig()
	exact := func(d time.Duration) time.Duration { return d }
	var out []string
	for now := from; len(out) < rounds; {
		r, due := e.advance(&config, exact, now)
		var what []string
		for _, part := range []struct {
			sent bool
			name string
		}{{r.probe, "probe"}, {r.request, "request"}, {r.reply, "reply"}} {
			if part.sent {
				what = append(what, part.name)
			}
		}
		out = append(out, fmt.Sprintf("%s %s (%s)", now.Sub(from), strings.Join(what, " + "), e.status.State))
		now = due
	}
	return out
}

// TestCourse is what an address sends when nobody objects. The second form of an IPv6
// announcement does not exist.
func TestCourse(t *testing.T) {
	start := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name    string
		address netip.Addr
		stage   stage
		rounds  int
		want    []string
	}{
		{"IPv4, probed", addr4, probing, 8, []string{
			"0s probe (probing)", "150ms probe (probing)", "300ms probe (probing)",
			"500ms request (answering)", "600ms reply (answering)",
			"1.5s request + reply (answering)", "3.5s request + reply (answering)", "5m3.5s probe (answering)",
		}},
		{"IPv4, taken over", addr4, announcing, 5, []string{
			"0s request (answering)", "100ms probe + reply (answering)",
			"1s request + reply (answering)", "3s request + reply (answering)", "5m3s probe (answering)",
		}},
		{"IPv6, probed", addr6, probing, 6, []string{
			"0s probe (probing)", "150ms probe (probing)", "300ms probe (probing)",
			"500ms request (answering)", "600ms  (answering)", "1.5s request (answering)",
		}},
		{"IPv6, taken over", addr6, announcing, 3, []string{
			"0s request (answering)", "100ms probe (answering)", "1s request (answering)",
		}},
		{"looked at again", addr4, conflicted, 4, []string{
			"0s probe (conflict)", "150ms probe (conflict)", "300ms probe (conflict)", "500ms request (answering)",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &entry{address: tt.address, stage: tt.stage, index: -1, status: Status{State: Probing}}
			if tt.stage == conflicted {
				e.status.State = Conflict
			}
			if diff := cmp.Diff(tt.want, course(e, start, tt.rounds)); diff != "" {
				t.Errorf("course (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStrangerIsKept has two hosts, one of them on two interfaces, claim an address.
func TestStrangerIsKept(t *testing.T) {
	config, start := DefaultConfig(), time.Unix(1e9, 0)
	exact := func(d time.Duration) time.Duration { return d }
	a, b := MAC{2, 5: 1}, MAC{2, 5: 2}
	e := &entry{address: addr4, stage: verifying, index: -1, status: Status{State: Answering}}
	for _, step := range []struct {
		after time.Duration
		mac   MAC
		on    string
		state State
		want  Stranger // Seen is missing where it is now
	}{
		{0, a, "eth0", Answering, Stranger{MAC: a, Interface: "eth0"}},
		{time.Second, b, "eth1", Conflict, Stranger{MAC: b, Interface: "eth1"}},
		{2 * time.Second, b, "eth0", Conflict, Stranger{MAC: b, Interface: "eth1"}},
		{31 * time.Second, a, "eth0", Conflict, Stranger{MAC: b, Interface: "eth1", Seen: start.Add(2 * time.Second)}},
		{61 * time.Second, b, "eth0", Conflict, Stranger{MAC: b, Interface: "eth1"}},
		{91 * time.Second, a, "eth0", Conflict, Stranger{MAC: b, Interface: "eth1", Seen: start.Add(61 * time.Second)}},
		{122 * time.Second, a, "eth0", Conflict, Stranger{MAC: a, Interface: "eth0"}}, // b is gone
	} {
		now := start.Add(step.after)
		if e.stage == conflicted {
			e.advance(&config, exact, now)
		}
		e.strike(&config, exact, Stranger{MAC: step.mac, Interface: step.on, Seen: now})
		if step.want.Seen.IsZero() {
			step.want.Seen = now
		}
		if diff := cmp.Diff(step.want, *e.status.Stranger); diff != "" || e.status.State != step.state {
			t.Errorf("after %s: %s, stranger (-want +got):\n%s", step.after, e.status.State, diff)
		}
	}
}
