package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/rules"
)

// fakeFirewall finds what it is told to.
type fakeFirewall struct {
	mu       sync.Mutex // guards everything below
	findings []firewall.Finding
	err      error
	traffic  []firewall.Traffic
	removed  bool
	closed   bool
}

func (f *fakeFirewall) Ensure(_ context.Context, t firewall.Traffic) (firewall.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.traffic = append(f.traffic, t)
	return firewall.Result{Findings: f.findings}, f.err
}

func (f *fakeFirewall) Remove(context.Context) error { f.removed = true; return nil }
func (f *fakeFirewall) Close() error                 { f.closed = true; return nil }

func (f *fakeFirewall) find(err error, findings ...firewall.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.findings, f.err = findings, err
}

func (f *fakeFirewall) seen() []firewall.Traffic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.traffic)
}

// TestClusterTellsWhatIsInTheWay: within a second of when it is, and of when it is not.
func TestClusterTellsWhatIsInTheWay(t *testing.T) {
	prepare := func(b *clusterBench) {
		b.cluster.createGuide(t)
		b.sysctls.set("net/ipv4/ip_forward", "1")
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(2 * time.Second)
		seen := b.firewall.seen()
		if len(seen) == 0 || seen[len(seen)-1].State.Frontend(fooKey) == nil || !slices.Contains(seen[0].Addresses, nodeIP) {
			t.Fatalf("the firewall was asked for %+v", seen)
		}
		findings := func() []v1alpha1.Finding { return b.cluster.reports.report("demo-node").Findings }
		ofFirewall := func() (messages []string) {
			for _, f := range findings() {
				if f.Reason == firewall.ReasonDrops {
					messages = append(messages, f.Message)
				}
			}
			return messages
		}
		b.firewall.find(errors.New("one table could not be read"), firewall.Finding{Reason: firewall.ReasonDrops, Message: "table guard"})
		b.settle(2 * time.Second)
		if got := ofFirewall(); !slices.Equal(got, []string{"table guard"}) {
			t.Errorf("findings %v", findings())
		}
		b.firewall.find(nil, firewall.Finding{Reason: firewall.ReasonPortInUse, Message: "a process", Owner: rules.Owner{Gateway: "ns/g", Listener: "l"}})
		b.settle(2 * time.Second)
		if got, want := findings(), (v1alpha1.Finding{Reason: "PortInUse", Message: "a process", Gateway: "ns/g", Listener: "l"}); !slices.Contains(got, want) {
			t.Errorf("findings %v, want %v among them", got, want)
		}
		b.firewall.find(nil)
		b.settle(2 * time.Second)
		if got := ofFirewall(); len(got) != 0 {
			t.Errorf("findings after the cure: %v", got)
		}
		b.cluster.reports.written()
		b.settle(10 * time.Minute)
		if got := b.cluster.reports.written(); len(got) != 0 {
			t.Errorf("nothing new, yet written: %v", got)
		}
	})
}
