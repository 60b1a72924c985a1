package traffic

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/portway-dev/portway/internal/netns"
)

// TestSubjects: each subject brings all that the client sends to the backend, over both
// protocols, and follows as many flows as it should. kube-proxy, which takes minutes to
// build, is left to the measurement, which looks, too.
func TestSubjects(t *testing.T) {
	netns.Require(t)
	clock, closeClock := startClock(t)
	defer closeClock()
	for _, subject := range Subjects() {
		if strings.HasPrefix(subject.Name, "kube-proxy") {
			continue
		}
		t.Run(subject.Name, func(t *testing.T) { testSubject(t, subject, clock) })
	}
}

func testSubject(t *testing.T, subject Subject, clock *Clock) {
	t.Helper()
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
		if subject.Name != Subjects()[0].Name {
			flows = packets
		}
	}
	if got := followed(t, l); got != flows {
		t.Errorf("the node follows %d flows, want %d", got, flows)
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
	if got := followed(t, l); got != 0 {
		t.Errorf("the node follows %d flows that were forgotten", got)
	}
}

func followed(t *testing.T, l *Loaded) int {
	t.Helper()
	var flows []*netlink.ConntrackFlow
	if err := l.Node.Do(func() (err error) {
		flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return len(flows)
}
