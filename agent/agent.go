package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// programmer makes the kernel forward what a State says. Program is idempotent,
// keeps the old rules where it fails and says per Gateway what is committed. Disturbed
// looks, at little cost and at any time, whether others made another Program necessary.
type programmer interface {
	Program(ctx context.Context, state *rules.State) (rules.Results, error)
	Disturbed() bool
	Cleanup(ctx context.Context) error
}

// source is where API objects come from.
type source interface {
	Changed() <-chan struct{}
	Next() cluster.Update
}

// agent is one node's loop. Not safe for concurrent use.
type agent struct {
	node       string
	config     topology.Config
	source     source
	programmer programmer
	backend    string // its name
	addresses  func() ([]netip.Addr, error)
	zone       func() string
	// assign gives the Gateways their addresses.
	assign   func(*topology.Resolution, []netip.Addr) map[types.NamespacedName]topology.Assignment
	shortcut *shortcut
	// limitations tells what works less well than it should.
	limitations func() []string
	// preflight tells what the host lacks to serve at these addresses.
	preflight func([]netip.Addr) []string
	lookout   *lookout
	flows     *flowSweeper // nil: flows are left alone
	gate      *gate        // nil: firewalls of others are left alone
	speaker   *speaker     // nil: no addresses are announced
	// labels of the Node; nil without a cluster.
	labels   func() labels.Set
	statuses *statusWriter // nil when nobody wants them
	reports  *reportWriter // nil without a cluster
	progress *progress
	metrics  *instruments
	clock    clock.WithDelayedExecution

	moved atomic.Bool   // the node's addresses or zone may have changed
	nudge chan struct{} // follows moved

	snapshot  topology.Snapshot
	current   []netip.Addr // the node's addresses
	zoned     string       // the node's zone
	undecided bool         // one of them changed since the graph was built
	rests     bool         // between decisions: objects come over watches of their own, as in a cluster
	rested    time.Time    // no other decision before, unless it is asked for
	alarm     clock.Timer  // set while a decision is due then
	graph     *topology.Graph
	forwarder *topology.Forwarder
	proof     proof
	warnings  []string // those already logged
	unserved  []string // likewise
	inTheWay  []string // likewise
	off       []string // likewise
	findings  []string // of preflight, last
	limits    []string // those already logged
}

func newAgent(node string, config topology.Config, from source, to programmer, addresses func() ([]netip.Addr, error)) *agent {
	a := &agent{
		node: node, config: config, source: from, programmer: to, addresses: addresses,
		assign:      cluster.Assign,
		preflight:   func([]netip.Addr) []string { return nil },
		limitations: func() []string { return nil },
		zone:        func() string { return "" },
		nudge:       make(chan struct{}, 1),
		progress:    newProgress(clock.RealClock{}),
		metrics:     newInstruments(),
		clock:       clock.RealClock{},
		graph:       &topology.Graph{},
		forwarder:   topology.NewForwarder(topology.Node{Name: node}),
	}
	a.lookout = &lookout{disturbed: to.Disturbed, moved: func() { signal(a.nudge) }, clock: a.clock}
	return a
}

// readdress asks for a pass that looks at the node's addresses and zone. Safe for
// concurrent use.
func (a *agent) readdress() {
	a.moved.Store(true)
	signal(a.nudge)
}

// tracked is pass, seen by whoever asks for the agent's health.
func (a *agent) tracked(ctx context.Context, full bool) error {
	a.progress.begin()
	defer a.progress.end()
	return a.pass(ctx, full)
}

// pass brings the kernel up to date once.
func (a *agent) pass(ctx context.Context, full bool) error {
	started := a.clock.Now()
	update := a.source.Next()
	for service, list := range update.Slices {
		a.forwarder.SetEndpointSlices(service, list)
	}
	if update.Snapshot != nil {
		a.snapshot, a.undecided = *update.Snapshot, true
	}
	look := a.moved.Swap(false) || full
	if look {
		if err := a.followAddresses(ctx); err != nil {
			return err
		}
		a.followZone(ctx)
	}
	if a.mayDecide(look) {
		a.decide(ctx)
		defer func() { a.rest(started) }()
	}
	state := a.forwarder.State()
	if update.Partial {
		state = state.AsPartial()
	}
	if a.flows != nil {
		a.flows.announce(state)
	}
	began := a.clock.Now()
	results, err := a.programmer.Program(ctx, state)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // stopped in the middle: nothing to report
	}
	a.lookout.programmed(a.clock.Since(began), results.Restored)
	a.metrics.exchanged(results)
	a.metrics.programmed(state.Len(), a.clock.Since(began), a.clock.Now(), programError(results, err))
	whole := err != nil && failedWhole(state, results, err)
	if !whole {
		a.progress.succeed()
	}
	// Everything below is told after the kernel is up to date.
	if a.flows != nil {
		a.flows.offer(state, results, a.forwarder.ListedAddresses)
	}
	if results.Restored {
		a.metrics.restored.Inc()
		klog.FromContext(ctx).Info("Somebody else deleted or changed our rules; they are in place again")
	}
	if a.gate != nil {
		a.gate.offer(state, a.current)
	}
	if a.speaker != nil && (!whole || a.speaker.offered()) {
		a.speaker.offer(a.graph, a.forwarder, a.current, results)
	}
	if look {
		a.examine(ctx)
	}
	a.publish(ctx, results, err)
	a.logWarnings(ctx)
	klog.FromContext(ctx).V(2).Info("Programmed", "frontends", state.Len(), "operations", results.Operations, "full", full)
	return programError(results, err)
}

// followAddresses takes over the node's addresses. An agent that cannot read them
// goes on with those it knows, unless it knows none yet.
func (a *agent) followAddresses(ctx context.Context) error {
	now, err := a.addresses()
	switch {
	case err != nil && a.current == nil:
		return fmt.Errorf("find the node's addresses: %w", err)
	case err != nil:
		klog.FromContext(ctx).Error(err, "Could not read the node's addresses, keeping those known")
		return nil
	case a.current != nil && slices.Equal(now, a.current):
		return nil
	}
	if len(now) == 0 {
		klog.FromContext(ctx).Info("This host has no address to serve Gateways at: they are served once it gets one, or name one with --node-address")
	} else {
		klog.FromContext(ctx).Info("Serving at the node's addresses", "addresses", fmt.Sprint(now))
	}
	a.current, a.undecided = append([]netip.Addr{}, now...), true
	a.forwarder.SetNode(a.thisNode())
	return nil
}

// followZone takes over the node's zone.
func (a *agent) followZone(ctx context.Context) {
	if now := a.zone(); now != a.zoned {
		klog.FromContext(ctx).Info("This node's zone", "zone", now, "before", a.zoned)
		a.zoned = now
		a.forwarder.SetNode(a.thisNode())
	}
}

// thisNode is what the Forwarder makes States for.
func (a *agent) thisNode() topology.Node {
	return topology.Node{Name: a.node, Addresses: a.current, Zone: a.zoned}
}

// maxRest bounds the rest between decisions (syncloop.Rest): a pass may also take long because it loads a
// node without rules. A decision is about the whole cluster, and where a thousand Gateways get their addresses
// one by one, as many would follow each other. Endpoints need none and wait for nothing. Files are not read
// one by one: a change of theirs, endpoints and all, and whether they are Partial, is of one piece.
const maxRest = time.Second

// mayDecide reports whether a decision is due; it is made later, and at once with whatever else asks
// for it, if the last one has just been made.
func (a *agent) mayDecide(asked bool) bool {
	if !a.undecided {
		return false
	}
	now := a.clock.Now()
	if asked || !a.rests || !now.Before(a.rested) {
		return true
	}
	a.disarm()
	a.alarm = a.clock.AfterFunc(a.rested.Sub(now), func() { signal(a.nudge) })
	return false
}

// rest begins after a pass with a decision.
func (a *agent) rest(started time.Time) {
	now := a.clock.Now()
	a.rested = now.Add(syncloop.Rest(now.Sub(started), maxRest))
	a.disarm()
}

func (a *agent) disarm() {
	if a.alarm != nil {
		a.alarm.Stop()
		a.alarm = nil
	}
}

// decide builds the Graph anew.
func (a *agent) decide(ctx context.Context) {
	a.undecided = false
	resolution := topology.Resolve(a.snapshot, a.config)
	a.graph = resolution.Build(a.assign(resolution, a.current))
	a.forwarder.SetGraph(a.graph)
	unserved := cluster.Unserved(&a.snapshot)
	logNew(ctx, "Not served", a.unserved, unserved)
	a.unserved = unserved
}

// examine looks again at what the host lacks: somebody may have cured it since, or
// broken it.
func (a *agent) examine(ctx context.Context) {
	findings := a.preflight(a.current)
	logNew(ctx, "Preflight warning", a.findings, findings)
	a.findings = findings
}

// found returns everything that is to be told of the host.
func (a *agent) found(ctx context.Context) []v1alpha1.Finding {
	var findings []v1alpha1.Finding
	limits := a.limitations()
	logNew(ctx, "Works less well than it should", a.limits, limits)
	a.limits = limits
	for _, message := range limits {
		findings = append(findings, v1alpha1.Finding{Reason: a.limitReason(), Message: message})
	}
	for _, message := range a.findings {
		findings = append(findings, v1alpha1.Finding{Reason: reasonForwarding, Message: message})
	}
	if a.speaker == nil && a.labels != nil {
		off := offFindings(a.graph, a.labels())
		logNew(ctx, "Addresses are not announced", a.off, lines(off))
		a.off = lines(off)
		findings = append(findings, off...)
	}
	if a.gate == nil {
		return findings
	}
	list := a.gate.list()
	logNew(ctx, "In the way of our flows, or beside it", a.inTheWay, lines(list))
	a.inTheWay = lines(list)
	return append(findings, list...)
}

// limitReason is the reason of limitations.
func (a *agent) limitReason() string {
	if a.backend == backendIPTables {
		return reasonBackend
	}
	return reasonKernel
}

func (a *agent) logWarnings(ctx context.Context) {
	warnings := a.forwarder.Warnings()
	logNew(ctx, "Endpoint left out", a.warnings, warnings)
	a.warnings = warnings
}

// logNew logs the lines that are not among the old ones.
func logNew(ctx context.Context, message string, old, lines []string) {
	if slices.Equal(old, lines) {
		return
	}
	known := make(map[string]bool, len(old))
	for _, line := range old {
		known[line] = true
	}
	for _, line := range lines {
		if !known[line] {
			klog.FromContext(ctx).Info(message, "reason", line)
		}
	}
}

// publish hands what this node has proven to whoever wants to know.
func (a *agent) publish(ctx context.Context, results rules.Results, err error) {
	if a.statuses == nil && a.reports == nil {
		return
	}
	v := view{
		snapshot:  a.snapshot,
		graph:     a.graph,
		report:    a.proof.of(a.node, a.graph, results, err),
		addresses: a.current,
		findings:  a.found(ctx),
	}
	withhold(&v.report, a.forwarder.Withheld())
	if a.speaker != nil {
		findings, announcing := a.speaker.list()
		v.findings, v.announcing = append(v.findings, findings...), announcing
	}
	v.report.Findings = cluster.Findings(v.findings)
	if a.statuses != nil {
		a.statuses.offer(v)
	}
	if a.reports != nil {
		a.reports.offer(v)
	}
}
