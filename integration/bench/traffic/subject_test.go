package traffic

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

// TestSubjects: each subject brings all that the client sends to the backend, over both
// protocols, and follows as many flows as it should. kube-proxy, which takes minutes to
// build, is left to the measurement, which looks, too.
func TestSubjects(t *testing.T) {
	netns.Require(t)
	for _, subject := range slices.Concat(Subjects(), forThroughput()) {
		if strings.HasPrefix(subject.Name, "kube-proxy") {
			continue
		}
		t.Run(subject.Name, func(t *testing.T) { testSubject(t, subject) })
	}
}

func testSubject(t *testing.T, subject Subject) {
	t.Helper()
	clock, closeClock := startClock(t) // of this goroutine's thread
	defer closeClock()
	l, err := subject.Load(Size{Listeners: 3, Endpoints: 2}, clock.CPU)
	if missing := (*Unavailable)(nil); errors.As(err, &missing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	const packets = 500
	flows := 0
	if !subject.Proxy {
		d, err := NewDatagrams(l.Site, packets, subject.Routed)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Send(packets), d.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Arrived(); err != nil || got != packets {
			t.Errorf("%d of %d datagrams arrived: %v", got, packets, err)
		}
		if !subject.untracked {
			flows = packets
		}
	}
	if got, _, err := l.followed(); err != nil || got != flows {
		t.Errorf("the node follows %d flows, want %d: %v", got, flows, err)
	}
	if err := l.spread(flows, flows, 3); err != nil {
		t.Error(err)
	}
	if err := l.spread(flows+1, flows+1, 3); err == nil && flows > 0 {
		t.Error("a flow that is not there was not missed")
	}
	before, err := clock.Now(l.Proxies...)
	if err != nil {
		t.Fatal(err)
	}
	connections := NewConnections(l.Site, subject.Routed)
	for round := range 2 {
		connections.Rewind(round)
		if err := l.Client.Do(func() error { return connections.Open(2 * batch) }); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := clock.Now(l.Proxies...); err != nil || after <= before {
		t.Errorf("the clock stood at %d and then at %d: %v", before, after, err)
	}
	if err := l.Forget(); err != nil {
		t.Fatal(err)
	}
	if got, _, err := l.followed(); err != nil || got != 0 {
		t.Errorf("the node follows %d flows that were forgotten: %v", got, err)
	}
}
