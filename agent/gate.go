package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/rules"
)

// How often the way is looked at: a firewall that was reloaded is open again within
// two seconds, and what can be read of the host without being asked for takes longer.
const (
	gateInterval = time.Second
	gatePause    = 500 * time.Millisecond
	hostInterval = 30 * time.Second
)

// opener lets our flows pass firewalls of others, and takes that back.
type opener interface {
	Ensure(ctx context.Context, t firewall.Traffic) (firewall.Result, error)
	Remove(ctx context.Context) error
	Close() error
}

// gate keeps the way open for our flows, and finds what else is in it. It works beside
// the loop: reading the rules of others takes milliseconds and more.
type gate struct {
	opener opener
	host   func(firewall.Traffic) []firewall.Finding
	clock  clock.PassiveClock
	moved  func()        // the findings are others
	fresh  chan struct{} // there may be something to open

	mu       sync.Mutex // guards everything below
	traffic  firewall.Traffic
	findings []v1alpha1.Finding

	// Of the goroutine that runs.
	ofHost   []firewall.Finding
	hostSeen time.Time
}

// offer hands over what has to pass.
func (g *gate) offer(state *rules.State, addresses []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.traffic.State != state || !slices.Equal(g.traffic.Addresses, addresses) {
		g.traffic = firewall.Traffic{State: state, Addresses: addresses}
		signal(g.fresh)
	}
}

// list returns what was found last.
func (g *gate) list() []v1alpha1.Finding {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.findings
}

// pass looks once.
func (g *gate) pass(ctx context.Context, _ bool) error {
	g.mu.Lock()
	traffic := g.traffic
	g.mu.Unlock()
	if traffic.State == nil {
		return nil // nothing was programmed yet: what is there is from before
	}
	result, err := g.opener.Ensure(ctx, traffic)
	if result.Changed {
		klog.FromContext(ctx).Info("Let our flows pass the firewall of this host, or took that back", "chain", "PORTWAY-FORWARD")
	}
	if now := g.clock.Now(); now.Sub(g.hostSeen) >= hostInterval {
		g.ofHost, g.hostSeen = g.host(traffic), now
	}
	var findings []v1alpha1.Finding
	for _, f := range slices.Concat(result.Findings, g.ofHost) {
		findings = append(findings, v1alpha1.Finding{
			Reason: f.Reason, Message: f.Message, Gateway: f.Owner.Gateway, Listener: f.Owner.Listener,
		})
	}
	g.mu.Lock()
	before := g.findings
	g.findings = findings
	g.mu.Unlock()
	if !slices.Equal(before, findings) {
		g.moved()
	}
	return err
}

// removeOpening takes back what a gate did to the firewalls of others.
func removeOpening(ctx context.Context, o Options, env environment) error {
	opener, err := env.openFirewall(uint32(o.CTMark))
	if err != nil {
		return err
	}
	return errors.Join(opener.Remove(ctx), opener.Close())
}
