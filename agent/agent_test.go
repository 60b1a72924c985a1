package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// fakeProgrammer commits everything, unless it is told to fail.
type fakeProgrammer struct {
	mu        sync.Mutex // guards everything below up to errs
	states    []*rules.State
	restored  bool                  // as the results say
	disturbed func() (program bool) // nil: nobody disturbs
	takes     time.Duration         // Program does
	committed map[string]string
	err       error
	errs      map[string]error
	name      string // empty: nftables
	limits    []string
	cleaned   bool
	closed    bool
	// programmed gets every State, if set.
	programmed chan *rules.State
}

func (p *fakeProgrammer) Program(_ context.Context, state *rules.State) (rules.Results, error) {
	p.mu.Lock()
	p.states = append(p.states, state)
	restored := p.restored
	p.mu.Unlock()
	time.Sleep(p.takes)
	if p.programmed != nil {
		p.programmed <- state
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return rules.Results{Committed: p.committed, Errors: p.errs}, p.err
	}
	next := map[string]string{}
	for gateway, digest := range state.Digests() {
		if p.errs[gateway] == nil {
			next[gateway] = digest
		}
	}
	p.committed = next
	return rules.Results{Committed: next, Errors: p.errs, Operations: 1, Sent: 5, Received: 3, Restored: restored}, nil
}

func (p *fakeProgrammer) Disturbed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disturbed != nil && p.disturbed()
}

// disturb has looks find what they find.
func (p *fakeProgrammer) disturb(restored bool, disturbed func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restored, p.disturbed = restored, disturbed
}

// fail makes what follows fail, for tests beside a running agent; lost: nothing is in the
// kernel any more.
func (p *fakeProgrammer) fail(err error, errs map[string]error, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err, p.errs = err, errs; lost {
		p.committed = map[string]string{}
	}
}

func (p *fakeProgrammer) Cleanup(context.Context) error { p.cleaned = true; return p.err }
func (p *fakeProgrammer) Close() error                  { p.closed = true; return nil }
func (p *fakeProgrammer) Limitations() []string         { return p.limits }
func (p *fakeProgrammer) Name() string                  { return cmp.Or(p.name, backendNFTables) }

func (p *fakeProgrammer) last() *rules.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.states[len(p.states)-1]
}

// all returns the States programmed so far, for tests beside a running agent.
func (p *fakeProgrammer) all() []*rules.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.states)
}

var guide = []string{"../examples/tcp-routing.yaml", "../examples/tcp-routing-backends.yaml"}

func guideStore(t *testing.T) *cluster.Store {
	t.Helper()
	store := cluster.NewStore()
	config := cluster.DefaultManifestsConfig()
	config.Paths = guide
	if _, err := cluster.NewManifests(t.Context(), config, store); err != nil {
		t.Fatal(err)
	}
	return store
}

var (
	nodeIP  = netip.MustParseAddr("192.0.2.1")
	otherIP = netip.MustParseAddr("192.0.2.2")
	fooKey  = rules.FrontendKey{Addr: nodeIP, Protocol: rules.TCP, Port: 8080}
	barKey  = rules.FrontendKey{Addr: nodeIP, Protocol: rules.TCP, Port: 8090}
)

// bench is an agent with the guide's objects.
type bench struct {
	*agent
	store     *cluster.Store
	kernel    *fakeProgrammer
	addresses []netip.Addr
	clock     *clocktesting.FakeClock
	out       strings.Builder
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		store: guideStore(t), kernel: &fakeProgrammer{}, addresses: []netip.Addr{nodeIP},
		clock: clocktesting.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
	}
	b.agent = newAgent("demo-node", topology.DefaultConfig(), b.store, b.kernel,
		func() ([]netip.Addr, error) { return b.addresses, nil })
	b.statuses = newStatusWriter("", &b.out, true, b.clock)
	return b
}

func (b *bench) must(t *testing.T, full bool) {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	if err := b.pass(ctx, full); err != nil {
		t.Fatal(err)
	}
}

// status returns what was printed since the last call.
func (b *bench) status(t *testing.T) string {
	t.Helper()
	if err := b.statuses.update(); err != nil {
		t.Fatal(err)
	}
	defer b.out.Reset()
	return b.out.String()
}

func endpoints(f *rules.Frontend) []string {
	var out []string
	for _, b := range f.Backends {
		for _, e := range b.Endpoints {
			out = append(out, e.Addr.String())
		}
	}
	return out
}

func TestPassProgramsTheGuide(t *testing.T) {
	b := newBench(t)
	b.must(t, true)
	if got, want := b.kernel.last().Keys(), []rules.FrontendKey{fooKey, barKey}; !slices.Equal(got, want) {
		t.Errorf("frontends %v, want %v", got, want)
	}
	if got, want := endpoints(b.kernel.last().Frontend(fooKey)), []string{"10.244.1.10:6000", "10.244.1.11:6000"}; !slices.Equal(got, want) {
		t.Errorf("endpoints %v, want %v", got, want)
	}
	status := b.status(t)
	for _, want := range []string{"kind: Gateway\n", "value: 192.0.2.1", "reason: Programmed", `lastTransitionTime: "2026-01-01T00:00:00Z"`} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	b.must(t, true)
	if again := b.status(t); again != "" {
		t.Errorf("statuses printed again although nothing changed:\n%s", again)
	}
}

func TestPassSliceChangeDoesNotBuild(t *testing.T) {
	b := newBench(t)
	b.must(t, true)
	b.status(t)
	graph, before := b.graph, b.kernel.last()

	slice := oneEndpoint("my-bar-service", "10.244.1.99")
	if err := b.store.Put(slice); err != nil {
		t.Fatal(err)
	}
	b.must(t, false)
	after := b.kernel.last()
	if b.graph != graph {
		t.Error("a change of endpoints built a new graph")
	}
	if after.Frontend(fooKey) != before.Frontend(fooKey) {
		t.Error("the frontend of another Service was renewed")
	}
	if got, want := endpoints(after.Frontend(barKey)), []string{"10.244.1.20:6000", "10.244.1.99:6000"}; !slices.Equal(got, want) {
		t.Errorf("endpoints %v, want %v", got, want)
	}
	if status := b.status(t); status != "" {
		t.Errorf("endpoints changed a status:\n%s", status)
	}
}

func TestPassReportsProgramErrors(t *testing.T) {
	b := newBench(t)
	b.kernel.err = errors.New("no buffer space available")
	_, ctx := ktesting.NewTestContext(t)
	const want = "program the kernel: no buffer space available"
	if err := b.pass(ctx, true); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if status := b.status(t); !strings.Contains(status, "waiting for demo-node (last error: no buffer space") {
		t.Errorf("status does not tell:\n%s", status)
	}
	b.clock.Step(time.Minute)
	b.kernel.err = nil
	b.must(t, true)
	status := b.status(t)
	if !strings.Contains(status, "reason: Programmed") || !strings.Contains(status, `lastTransitionTime: "2026-01-01T00:01:00Z"`) ||
		!strings.Contains(status, `lastTransitionTime: "2026-01-01T00:00:00Z"`) {
		t.Errorf("status after recovery:\n%s", status)
	}
}

func TestPassReportsErrorsOfOneGateway(t *testing.T) {
	b := newBench(t)
	b.kernel.errs = map[string]error{"default/my-tcp-gateway": errors.New("too long")}
	_, ctx := ktesting.NewTestContext(t)
	const want = "program Gateway default/my-tcp-gateway: too long"
	if err := b.pass(ctx, true); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestPassFollowsAddressesWhenFull(t *testing.T) {
	b := newBench(t)
	b.must(t, true)
	b.addresses = []netip.Addr{otherIP}
	b.must(t, false)
	if b.kernel.last().Frontend(fooKey) == nil {
		t.Error("a pass that is not full followed the addresses")
	}
	b.must(t, true)
	if state := b.kernel.last(); state.Len() != 2 || state.Frontend(fooKey) != nil {
		t.Errorf("frontends %v", state.Keys())
	}
	if status := b.status(t); !strings.Contains(status, "value: 192.0.2.2") {
		t.Errorf("status:\n%s", status)
	}
}

// TestPassFollowsTheZone: endpoints for other zones get no new flow once the node's
// own is known, and are not cut off.
func TestPassFollowsTheZone(t *testing.T) {
	b := newBench(t)
	hinted := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](6000)}}}
	hinted.Namespace, hinted.Name = "default", "my-foo-service-1"
	hinted.Labels = map[string]string{discoveryv1.LabelServiceName: "my-foo-service"}
	for i := range 2 {
		hinted.Endpoints = append(hinted.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.244.1.%d", 10+i)},
			Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: fmt.Sprint("zone-", i)}}},
		})
	}
	if err := b.store.Put(hinted); err != nil {
		t.Fatal(err)
	}
	b.must(t, true)
	all := endpoints(b.kernel.last().Frontend(fooKey))
	zone := "zone-1"
	b.zone = func() string { return zone }
	b.must(t, false)
	if got := endpoints(b.kernel.last().Frontend(fooKey)); !slices.Equal(got, all) {
		t.Errorf("looked at the zone although nobody said that it moved: %v", got)
	}
	b.readdress()
	b.must(t, false)
	foo := b.kernel.last().Frontend(fooKey)
	if got := endpoints(foo); !slices.Equal(got, all[1:2]) || len(foo.Backends[0].Draining) != len(all)-1 {
		t.Errorf("endpoints %v of %v, draining %v", got, all, foo.Backends[0].Draining)
	}
}

func TestPassWithoutAddresses(t *testing.T) {
	b := newBench(t)
	b.agent.addresses = func() ([]netip.Addr, error) { return nil, errors.New("netlink is busy") }
	_, ctx := ktesting.NewTestContext(t)
	if err := b.pass(ctx, true); err == nil || len(b.kernel.states) != 0 {
		t.Errorf("programmed without knowing the addresses: %v", err)
	}
	// The update that the failed pass took must not be lost.
	b.agent.addresses = func() ([]netip.Addr, error) { return b.addresses, nil }
	b.must(t, true)
	if b.kernel.last().Len() != 2 {
		t.Error("the first update was lost")
	}
	b.agent.addresses = func() ([]netip.Addr, error) { return nil, errors.New("netlink is busy") }
	b.must(t, true) // goes on with those it knows
	if b.kernel.last().Len() != 2 {
		t.Error("known addresses were dropped")
	}
}

// TestProofHolds: a report is made anew as soon as anything of it may be another.
func TestProofHolds(t *testing.T) {
	web := types.NamespacedName{Namespace: "a", Name: "web"}
	graph := &topology.Graph{Gateways: map[types.NamespacedName]*topology.Gateway{web: {Digest: "1:new"}}}
	committed := map[string]string{"a/web": "1:old"}
	var p proof
	say := func(graph *topology.Graph, results rules.Results, err error) string {
		r := p.of("n", graph, results, err)
		withhold(&r, map[types.NamespacedName]string{{Name: "other"}: "elsewhere"}) // must not be remembered
		return r.Committed[web] + " " + r.Errors[web]
	}
	for i, step := range []struct {
		graph   *topology.Graph
		results rules.Results
		err     error
		want    string
	}{
		{graph, rules.Results{Committed: committed}, nil, "1:old "},
		{graph, rules.Results{Committed: committed}, nil, "1:old "},
		{graph, rules.Results{Committed: committed}, errors.New("no"), "1:old no"},
		{graph, rules.Results{Committed: committed, Errors: map[string]error{"a/web": errors.New("full")}}, nil, "1:old full"},
		{graph, rules.Results{Committed: committed}, nil, "1:old "},
		{graph, rules.Results{Committed: map[string]string{"a/web": "1:new"}}, nil, "1:new "},
		{&topology.Graph{}, rules.Results{Committed: committed}, nil, " "},
	} {
		if got := say(step.graph, step.results, step.err); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if len(p.report.Errors) != 0 {
		t.Errorf("what is withheld is remembered: %v", p.report.Errors)
	}
}

func TestReportCountsOnlyOwnGateways(t *testing.T) {
	web, other := types.NamespacedName{Namespace: "a", Name: "web"}, types.NamespacedName{Namespace: "a", Name: "other"}
	graph := &topology.Graph{Gateways: map[types.NamespacedName]*topology.Gateway{
		web: {Digest: "1:new"}, other: {Digest: "1:same"},
	}}
	got := report("n", graph, rules.Results{Committed: map[string]string{"a/web": "1:old", "a/other": "1:same", "a/gone": "1:x"}}, errors.New("no"))
	if len(got.Committed) != 2 || got.Committed[web] != "1:old" || len(got.Errors) != 1 || got.Errors[web] != "no" {
		t.Errorf("report %+v", got)
	}
}

func TestPassTellsThatObjectsAreMissing(t *testing.T) {
	b := newBench(t)
	b.store.SetPartial(true)
	b.must(t, true)
	if !b.kernel.last().Partial() {
		t.Error("the State does not say that objects are missing")
	}
	b.store.SetPartial(false)
	b.must(t, true)
	if b.kernel.last().Partial() {
		t.Error("the State still says that objects are missing")
	}
}

func TestStatusesAreWrittenOnceTheyCanBe(t *testing.T) {
	b := newBench(t)
	blocked := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // a file where a directory is needed
		t.Fatal(err)
	}
	name := filepath.Join(blocked, "status.yaml")
	b.statuses = newStatusWriter(name, io.Discard, false, b.clock)
	b.must(t, true)
	_, ctx := ktesting.NewTestContext(t)
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); b.statuses.run(ctx) }()
	eventually(t, "a retry", b.clock.HasWaiters)
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	b.clock.Step(statusRetry)
	eventually(t, "the status file", func() bool { _, err := os.Stat(name); return err == nil })
	stop()
	<-done
}
