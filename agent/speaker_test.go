package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/announce"
	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

// fakeAnnouncer is one that does nothing by itself.
type fakeAnnouncer struct {
	config  announce.Config
	changed chan struct{}
	changes chan []announce.Change

	mu       sync.Mutex // guards everything below
	said     []string   // what it was told, in order
	owners   []announce.Owner
	problems []announce.Problem
	joined   bool
	leaves   time.Duration // how long it takes to
}

func (f *fakeAnnouncer) Run(ctx context.Context) error {
	<-ctx.Done()
	time.Sleep(f.leaves)
	f.say("left")
	return nil
}

func (f *fakeAnnouncer) say(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, what)
}

func (f *fakeAnnouncer) Set(d announce.Desired) {
	var texts []string
	for _, addr := range slices.SortedFunc(maps.Keys(d.Addresses), netip.Addr.Compare) {
		text := addr.String()
		if len(d.Addresses[addr].Interfaces) > 0 {
			text += " on " + strings.Join(d.Addresses[addr].Interfaces, " ")
		}
		if !d.Addresses[addr].Ready {
			text += " not ready"
		}
		texts = append(texts, text)
	}
	f.say(fmt.Sprintf("set [%s] among %v", strings.Join(texts, ", "), d.Members))
}

func (f *fakeAnnouncer) SetNodeAddresses(addresses []netip.Addr) { f.say(fmt.Sprint("at ", addresses)) }

func (f *fakeAnnouncer) Drain(drain bool) { f.say(fmt.Sprint("drain ", drain)) }

func (f *fakeAnnouncer) Owners() []announce.Owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owners
}

func (f *fakeAnnouncer) Problems() []announce.Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problems
}

func (f *fakeAnnouncer) Joined() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.joined
}

func (f *fakeAnnouncer) Changed() <-chan struct{}          { return f.changed }
func (f *fakeAnnouncer) Changes() <-chan []announce.Change { return f.changes }
func (f *fakeAnnouncer) Counters() announce.Counters       { return announce.Counters{Members: 2} }

// heard returns what it was told since the last call.
func (f *fakeAnnouncer) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.said = nil }()
	return f.said
}

// own makes it, or another node, own addresses.
func (f *fakeAnnouncer) own(owners ...announce.Owner) {
	f.mu.Lock()
	f.owners = owners
	f.mu.Unlock()
	signal(f.changed)
}

// withSpeaker prepares an agent that announces, with a Gateway that has an address of a pool.
func withSpeaker(opened *[]*fakeAnnouncer, failure *atomic.Pointer[error]) func(*clusterBench) {
	return func(b *clusterBench) {
		b.options.Layer2KeyFile = "/etc/portway/layer2/key"
		b.env.announce = func(config announce.Config, _ klog.Logger) (announcer, error) {
			if failure != nil && failure.Load() != nil {
				return nil, *failure.Load()
			}
			f := &fakeAnnouncer{config: config, changed: make(chan struct{}, 1), changes: make(chan []announce.Change, 64)}
			*opened = append(*opened, f)
			return f, nil
		}
		b.createAnnounced()
	}
}

var poolIP = netip.MustParseAddr("203.0.113.7")

func (b *clusterBench) createAnnounced() {
	b.t.Helper()
	ctx, c := b.t.Context(), b.cluster
	pool := b.createPooled()
	pool.Spec.Announcement = &v1alpha1.Announcement{
		Mode: v1alpha1.AnnouncementLayer2, Interfaces: []string{"eth*"},
		NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}},
	}
	if _, err := c.own.pools().Update(ctx, pool, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	other := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other-node"}}
	other.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::2"}}
	windows := other.DeepCopy()
	windows.Name, windows.Labels, windows.Status.Addresses[0].Address = "windows", map[string]string{corev1.LabelOSStable: "windows"}, "192.0.2.3"
	for _, node := range []*corev1.Node{other, windows} {
		if _, err := c.core.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			b.t.Fatal(err)
		}
	}
	b.editNode(func(node *corev1.Node) { node.Labels = map[string]string{"edge": "yes"} })
}

func (b *clusterBench) editNode(change func(*corev1.Node)) {
	b.t.Helper()
	nodes := b.cluster.core.CoreV1().Nodes()
	node, err := nodes.Get(b.t.Context(), "demo-node", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	change(node)
	if _, err := nodes.Update(b.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func TestSpeakerIsToldWhatIsCommitted(t *testing.T) {
	var opened []*fakeAnnouncer
	inCluster(t, withSpeaker(&opened, nil), func(b *clusterBench) {
		b.settle(time.Second)
		if len(opened) != 1 || opened[0].config.Bind != netip.MustParseAddrPort("192.0.2.1:7946") || opened[0].config.Node != "demo-node" {
			t.Fatalf("opened %+v", opened)
		}
		a := opened[0]
		step := func(what string, do func(), want ...string) {
			t.Helper()
			if do != nil {
				do()
			}
			b.settle(time.Second)
			if diff := cmp.Diff(want, a.heard()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		step("at first", nil, "at [192.0.2.1]", "set [203.0.113.7 on eth*] among [192.0.2.1 192.0.2.2]")
		step("endpoints change", func() { b.churn("10.0.0.2") })
		step("another label", func() {
			b.editNode(func(node *corev1.Node) { node.Labels = map[string]string{"edge": "no"} })
		}, "set [203.0.113.7 on eth* not ready] among [192.0.2.1 192.0.2.2]")
		step("selected again", func() {
			b.editNode(func(node *corev1.Node) { node.Labels = map[string]string{"edge": "yes"} })
		}, "set [203.0.113.7 on eth*] among [192.0.2.1 192.0.2.2]")
		step("cordoned", func() { b.editNode(func(node *corev1.Node) { node.Spec.Unschedulable = true }) }, "drain true")
		step("not Ready instead", func() {
			b.editNode(func(node *corev1.Node) {
				node.Spec.Unschedulable = false
				node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
			})
		}, "drain false")
		step("not Ready for long", func() { b.settle(unreadyFor + lookAnyway) }, "drain true")
		step("Ready", func() {
			b.editNode(func(node *corev1.Node) { node.Status.Conditions[0].Status = corev1.ConditionTrue })
		}, "drain false")
		step("not Ready for a moment", func() {
			b.editNode(func(node *corev1.Node) { node.Status.Conditions[0].Status = corev1.ConditionFalse })
			b.settle(unreadyFor / 2)
			b.editNode(func(node *corev1.Node) { node.Status.Conditions[0].Status = corev1.ConditionTrue })
			b.settle(unreadyFor)
		})
		step("a node goes", func() {
			if err := b.cluster.core.CoreV1().Nodes().Delete(t.Context(), "other-node", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, "set [203.0.113.7 on eth*] among [192.0.2.1]")
		step("no API server", func() {
			b.cluster.fail(errors.New("no route to host"))
			b.settle(10 * time.Minute)
		})
	})
	if diff := cmp.Diff([]string{"left"}, opened[0].heard()); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
}

// TestReadyOnceItTakesPart: an agent that announces is ready when it can take over, so that
// the next one of a rolling restart leaves only then; but it does not wait for ever.
func TestReadyOnceItTakesPart(t *testing.T) {
	now := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	a := &fakeAnnouncer{}
	s := &speaker{clock: now, began: now.Now()}
	p := newProgress(now)
	p.succeed()
	expect := func(when string, want int) {
		t.Helper()
		if code, text := get(t, healthHandler(p, newInstruments(), s.ready), "/readyz"); code != want {
			t.Errorf("%s: %d %s, want %d", when, code, text, want)
		}
	}
	expect("before it runs", http.StatusServiceUnavailable)
	s.running = a
	expect("before it takes part", http.StatusServiceUnavailable)
	a.joined = true
	expect("when it takes part", http.StatusOK)
	a.joined = false
	now.Step(joinLimit)
	expect("when it has waited for long", http.StatusOK)
	s.began = now.Now()
	expect("at the next start", http.StatusServiceUnavailable)
	s.running, s.failure = nil, errors.New("operation not permitted")
	expect("when it cannot announce at all", http.StatusOK)
}

// TestSpeakerWaitsForTheFirstCommit: before, it says nothing, so that others wait for it.
func TestSpeakerWaitsForTheFirstCommit(t *testing.T) {
	var opened []*fakeAnnouncer
	prepare := func(b *clusterBench) {
		withSpeaker(&opened, nil)(b)
		b.kernel.err = errors.New("busy")
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Minute)
		if got := opened[0].heard(); len(got) > 0 {
			t.Errorf("told %v before the first commit", got)
		}
		b.kernel.fail(nil, nil, false)
		b.settle(time.Minute)
		if got := opened[0].heard(); len(got) != 2 || !strings.HasPrefix(got[1], "set [203.0.113.7 on eth*] among") {
			t.Errorf("told %v", got)
		}
		b.kernel.fail(errors.New("busy"), nil, false)
		b.settle(time.Minute)
		if got := opened[0].heard(); len(got) > 0 {
			t.Errorf("told %v when nothing can be programmed any more", got)
		}
	})
}

// TestSpeakerStopsWithoutRules: rules that somebody deleted and that cannot be put back serve
// nobody, whatever else cannot be programmed.
func TestSpeakerStopsWithoutRules(t *testing.T) {
	var opened []*fakeAnnouncer
	inCluster(t, withSpeaker(&opened, nil), func(b *clusterBench) {
		b.settle(time.Second)
		step := func(what string, do func(), want ...string) {
			t.Helper()
			do()
			b.settle(time.Minute)
			if diff := cmp.Diff(want, opened[0].heard()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		const among = " among [192.0.2.1 192.0.2.2]"
		full := errors.New("no space left")
		step("at first", func() {}, "at [192.0.2.1]", "set [203.0.113.7 on eth*]"+among)
		step("nothing more can be programmed", func() {
			b.kernel.fail(full, map[string]error{"default/web": full}, false)
			b.churn("10.0.0.2")
		})
		step("and the rules are gone", func() {
			b.kernel.fail(full, map[string]error{"default/web": full}, true)
			b.churn("10.0.0.3")
		}, "set [203.0.113.7 on eth* not ready]"+among)
		step("and are back", func() {
			b.kernel.fail(nil, nil, false)
			b.churn("10.0.0.4")
		}, "set [203.0.113.7 on eth*]"+among)
	})
}

func TestSpeakerTellsWhatItHas(t *testing.T) {
	var opened []*fakeAnnouncer
	inCluster(t, withSpeaker(&opened, nil), func(b *clusterBench) {
		b.settle(time.Second)
		b.cluster.reports.written()
		began := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
		opened[0].own(
			announce.Owner{Address: poolIP, Node: "demo-node", Since: began, Phase: owner.Answering},
			announce.Owner{Address: poolIP.Next(), Node: "other-node", Since: began, Phase: owner.Answering},
		)
		b.settle(2 * time.Second)
		want := []v1alpha1.Announced{{Since: metav1.NewTime(began.Truncate(time.Second)), Addresses: []string{"203.0.113.7"}}}
		if diff := cmp.Diff(want, b.cluster.reports.report("demo-node").Announcing); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for range 20 {
			signal(opened[0].changed)
			b.settle(time.Second)
		}
		if got := b.cluster.reports.written(); len(got) != 1 {
			t.Errorf("writes %v, want one", got)
		}
	})
}

// findings are those of the report that the API server holds.
func (b *clusterBench) findings() map[string]string {
	found := map[string]string{}
	for _, f := range b.cluster.reports.report("demo-node").Findings {
		if f.Reason != v1alpha1.FindingPacketForwarding {
			found[strings.TrimSuffix(f.Reason+" of "+f.Gateway, " of ")] += f.Message + "\n"
		}
	}
	return found
}

// says expects findings with these reasons, each with words of its message.
func (b *clusterBench) says(when string, want map[string]string) {
	b.t.Helper()
	found := b.findings()
	for reason, words := range want {
		if !strings.Contains(found[reason], words) {
			b.t.Errorf("%s: %s says %q, want %q", when, reason, found[reason], words)
		}
	}
	for reason, message := range found {
		if want[reason] == "" {
			b.t.Errorf("%s: also found %s: %s", when, reason, message)
		}
	}
}

func TestSpeakerFailsAndComesBack(t *testing.T) {
	var opened []*fakeAnnouncer
	var failure atomic.Pointer[error]
	fails := func(err error) { failure.Store(&err) }
	fails(errors.New("members' key: /etc/portway/layer2/key is empty"))
	inCluster(t, withSpeaker(&opened, &failure), func(b *clusterBench) {
		b.settle(time.Second)
		b.says("at first", map[string]string{"AnnouncerFailed": "key is empty"})
		if n := b.kernel.last().Len(); n != 1 {
			t.Errorf("%d Frontends while announcing fails", n)
		}
		fails(&layer2.CapabilityError{Capability: "NET_RAW"})
		b.settle(10 * time.Second)
		b.says("without the right", map[string]string{"Capability": "NET_RAW"})
		failure.Store(nil)
		b.settle(10 * time.Second)
		b.says("when it works", nil)
		if len(opened) != 1 || len(opened[0].heard()) != 2 {
			t.Errorf("%d were started, and told", len(opened))
		}
	})
}

func TestSpeakerFindings(t *testing.T) {
	var opened []*fakeAnnouncer
	inCluster(t, withSpeaker(&opened, nil), func(b *clusterBench) {
		b.settle(time.Second)
		a := opened[0]
		stranger := &layer2.Stranger{MAC: layer2.MAC{2, 0, 0, 0, 0, 1}, Interface: "eth0"}
		a.own(announce.Owner{Address: poolIP, Node: "demo-node", Phase: owner.Conflict, Stranger: stranger})
		b.settle(2 * time.Second)
		b.says("a stranger", map[string]string{"AddressConflict of default/web": "203.0.113.7 belongs to a host with MAC address 02:00:00:00:00:01, seen on interface eth0"})
		if got := b.cluster.reports.report("demo-node").Announcing; got != nil {
			t.Errorf("announces %v", got)
		}
		a.own(announce.Owner{Address: poolIP, Node: "other-node", Phase: owner.Conflict, Stranger: stranger})
		b.settle(2 * time.Second)
		b.says("at another node", nil)

		a.own(announce.Owner{Address: poolIP, Missing: "no interface matches eth*"})
		b.settle(2 * time.Second)
		b.says("no interface", map[string]string{"NoInterface": "this node cannot announce 203.0.113.7: no interface matches eth*; see spec.announcement of AddressPool public"})
		many := slices.Repeat([]announce.Owner{{Address: poolIP, Node: "demo-node", Phase: owner.Conflict, Stranger: stranger}}, maxReportFindings)
		a.own(append(many, announce.Owner{Address: poolIP, Missing: "no interface matches eth*"})...)
		b.settle(2 * time.Second)
		b.says("and many strangers", map[string]string{"AddressConflict of default/web": "203.0.113.7 belongs to", "NoInterface": "no interface matches eth*"})
		a.own(announce.Owner{Address: poolIP, Missing: "no interface matches eth*"})
		b.editNode(func(node *corev1.Node) { node.Labels = nil })
		b.settle(11 * time.Second)
		b.says("not selected", nil)

		a.mu.Lock()
		a.problems = []announce.Problem{{Reason: announce.ReasonMissing, Message: "no member at 192.0.2.2"}}
		a.mu.Unlock()
		b.settle(11 * time.Second)
		b.says("somebody is missing", map[string]string{"MembersMissing": "no member at 192.0.2.2"})
		a.mu.Lock()
		a.problems = nil
		a.mu.Unlock()

		a.changes <- []announce.Change{
			{Kind: announce.SplitBrain, Address: poolIP.Next(), Node: "other-node", At: time.Now()},
			{Kind: announce.SplitBrain, Address: poolIP, Node: "other-node", At: time.Now()},
			{Kind: announce.Taken, Address: poolIP},
		}
		b.settle(11 * time.Second)
		b.says("split", map[string]string{"SplitBrain": "this node and other-node both answered for 203.0.113.7, 203.0.113.8, as they could not reach each other on port 7946"})
		b.settle(10 * time.Minute)
		b.says("long after", nil)
	})
}

func TestSpeakerNeedsToKnowNodes(t *testing.T) {
	var opened []*fakeAnnouncer
	prepare := func(b *clusterBench) {
		withSpeaker(&opened, nil)(b)
		b.cluster.core.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no"))
		})
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Minute)
		b.says("without the right", map[string]string{"NodesNotReadable": "list and watch for nodes"})
		if got := opened[0].heard(); len(got) > 0 {
			t.Errorf("told %v", got)
		}
	})
}

func TestSpeakerIsOff(t *testing.T) {
	prepare := func(b *clusterBench) { b.createAnnounced() }
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Second)
		b.says("selected", map[string]string{"AnnouncerOff": "AddressPool public has announcement Layer2, and this node is selected, but announces nothing, as portway-agent runs without --layer2-key-file"})
		b.editNode(func(node *corev1.Node) { node.Labels = nil })
		b.settle(time.Second)
		b.says("not selected", nil)
	})
}

func TestAnnouncing(t *testing.T) {
	at := func(addr string, s int64) announce.Owner {
		return announce.Owner{Address: netip.MustParseAddr(addr), Node: "n1", Since: time.Unix(s, 7e8), Phase: owner.Answering}
	}
	pending := at("203.0.113.9", 1)
	pending.Phase = owner.Pending
	got := announcing("n1", []announce.Owner{at("2001:db8::1", 5), at("203.0.113.2", 5), at("203.0.113.1", 9), pending})
	want := []v1alpha1.Announced{
		{Since: metav1.Unix(5, 0), Addresses: []string{"203.0.113.2", "2001:db8::1"}},
		{Since: metav1.Unix(9, 0), Addresses: []string{"203.0.113.1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var many []announce.Owner
	for i, addr := int64(0), netip.MustParseAddr("203.0.113.0"); i < maxAnnounced+10; i, addr = i+1, addr.Next() {
		many = append(many, at(addr.String(), i))
	}
	if got := announcing("n1", many); len(got) != maxAnnounced || len(got[maxAnnounced-1].Addresses) != 11 {
		t.Errorf("%d groups, the last of %d", len(got), len(got[len(got)-1].Addresses))
	}
}
