package controller

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

const (
	programmed = string(gatewayv1.GatewayConditionProgrammed)
	pending    = string(gatewayv1.GatewayReasonPending)
	// progressInterval is how often at most a Gateway's "3/5 nodes" is told anew.
	progressInterval = time.Second
	// progressRate is how many Gateways a second are told anew at most. It is a fifth of what
	// the API is asked by default: where thousands of Gateways wait for thousands of nodes, those of
	// which there is something to conclude would otherwise wait for those of which there is not. An
	// error, and what is told first of an edit, is no progress.
	progressRate = 10
	// silenceInterval is how often at most it is told anew which agents are silent. All
	// Gateways name them, so that each time is a write of every Gateway; nodes that are
	// lost together show over the 10 s in which agents renew, and those of a rollout
	// over minutes.
	silenceInterval = 30 * time.Second
)

// silence is the nodes that Gateways are told to be silent.
type silence struct {
	told   []string
	toldAt time.Time
}

// tell takes over who is silent, unless it is too early to tell: the first of them
// and that none is left are told at once. next is when it has to be looked at again;
// zero: nothing is left to tell.
func (s *silence) tell(now time.Time, silent []string) (next time.Time) {
	if slices.Equal(s.told, silent) {
		return time.Time{}
	}
	if end := s.toldAt.Add(silenceInterval); len(silent) > 0 && len(s.told) > 0 && now.Before(end) {
		return end
	}
	s.told, s.toldAt = silent, now
	return time.Time{}
}

// lags gives the nodes time: an edit that all of them prove within the tolerance
// never shows as Programmed False, and their progress is told no more often than
// people can read, of all Gateways together. Not safe for concurrent use.
type lags struct {
	tolerance time.Duration
	gateways  map[types.NamespacedName]*lag
	progress  flowcontrol.PassiveRateLimiter // of what is told anew
}

// lag is of one Gateway that some node has not proven.
type lag struct {
	since      time.Time
	generation int64  // that told is of
	told       string // the message of Programmed as last let through
	toldAt     time.Time
	waiting    *topology.Waiting // what it said; nil: it did not wait for nodes
}

// tell lets a message through.
func (l *lag) tell(now time.Time, message string, waiting *topology.Waiting) {
	l.told, l.toldAt, l.waiting = message, now, waiting
}

// progress reports whether what there is to tell differs from what was told in nothing but how
// many nodes are waited for, and which.
func (l *lag) progress(waiting *topology.Waiting) bool {
	return l.waiting != nil && waiting != nil && slices.Equal(l.waiting.Problems, waiting.Problems)
}

func newLags(tolerance time.Duration, c clock.PassiveClock) *lags {
	return &lags{
		tolerance: tolerance, gateways: map[types.NamespacedName]*lag{},
		progress: flowcontrol.NewTokenBucketPassiveRateLimiterWithClock(progressRate, progressRate, c),
	}
}

// published is what objects have for a status. A Graph shows it as it was when the
// Graph was built.
type published struct{ *topology.Snapshot }

func (p published) gateway(key types.NamespacedName) gatewayv1.GatewayStatus {
	if o := p.Gateways[key]; o != nil {
		return o.Status
	}
	return gatewayv1.GatewayStatus{}
}

func (p published) set(key types.NamespacedName) gatewayv1.ListenerSetStatus {
	if o := p.ListenerSets[key]; o != nil {
		return o.Status
	}
	return gatewayv1.ListenerSetStatus{}
}

// hold replaces in statuses what is too early to tell by what is published. next is
// when this has to be looked at again by the mere passing of time; zero: never.
func (l *lags) hold(now time.Time, g *topology.Graph, p published, s *topology.Statuses) (next time.Time) {
	lagging := make(map[types.NamespacedName]*lag, len(l.gateways))
	var anew []types.NamespacedName
	for key, status := range s.Gateways {
		desired := condition(status.Conditions, programmed)
		if desired == nil || desired.Status != metav1.ConditionFalse || desired.Reason != pending {
			continue
		}
		record := l.gateways[key]
		if record == nil {
			record = &lag{since: now}
		}
		if record.generation != desired.ObservedGeneration {
			record.generation, record.told = desired.ObservedGeneration, ""
		}
		lagging[key] = record
		gateway := g.Gateways[key]
		old := condition(p.gateway(key).Conditions, programmed)
		if end := record.since.Add(l.tolerance); now.Before(end) && old != nil && old.Status == metav1.ConditionTrue {
			p.holdTrue(&status, gateway, s)
			s.Gateways[key] = status
			next = earliest(next, end)
			continue
		}
		switch {
		case record.told == "":
			record.tell(now, desired.Message, s.Waiting[key])
		case record.told != desired.Message:
			anew = append(anew, key)
		}
	}
	l.gateways = lagging
	return earliest(next, l.tellAnew(now, anew, g, s))
}

// tellAnew lets through what is only progress of some Gateways, those first that were
// told longest ago, and leaves the others what they were told; errors wait for nobody else's
// progress. next is when to look again at who was left; zero: there are none.
func (l *lags) tellAnew(now time.Time, keys []types.NamespacedName, g *topology.Graph, s *topology.Statuses) (next time.Time) {
	slices.SortFunc(keys, func(a, b types.NamespacedName) int {
		return cmp.Or(l.gateways[a].toldAt.Compare(l.gateways[b].toldAt), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, key := range keys {
		record, status := l.gateways[key], s.Gateways[key]
		desired := condition(status.Conditions, programmed)
		end := record.toldAt.Add(progressInterval)
		if !now.Before(end) {
			if !record.progress(s.Waiting[key]) || l.progress.TryAccept() {
				record.tell(now, desired.Message, s.Waiting[key])
				continue
			}
			end = now.Add(progressInterval)
		}
		retell(&status, g.Gateways[key], s, desired.Message, record.told)
		next = earliest(next, end)
	}
	return next
}

// holdTrue puts the published Programmed conditions of a Gateway, its listeners and
// its ListenerSets back where they are True and would become Pending. They keep
// the generation they were true of, so that nobody takes them for an answer to
// the edit; what is new since then has no such condition and is Pending.
func (p published) holdTrue(status *gatewayv1.GatewayStatus, g *topology.Gateway, s *topology.Statuses) {
	old := p.gateway(g.Key)
	keepTrue(status.Conditions, old.Conditions)
	for i := range status.Listeners {
		listener := &status.Listeners[i]
		keepTrue(listener.Conditions, publishedListener(old.Listeners, listener.Name))
	}
	for _, set := range setsOf(g) {
		status, ok := s.ListenerSets[set.Key]
		if !ok {
			continue
		}
		old := p.set(set.Key)
		keepTrue(status.Conditions, old.Conditions)
		for i := range status.Listeners {
			listener := &status.Listeners[i]
			keepTrue(listener.Conditions, publishedEntry(old.Listeners, listener.Name))
		}
	}
}

func keepTrue(desired, published []metav1.Condition) {
	old, now := condition(published, programmed), condition(desired, programmed)
	if old == nil || now == nil || old.Status != metav1.ConditionTrue || now.Status != metav1.ConditionFalse {
		return
	}
	if now.Reason == pending || now.Reason == "ParentNotProgrammed" {
		*now = *old
	}
}

// keepTold leaves what is published about silent agents: that no agent is known to be
// silent says nothing yet. A controller that starts so does not take back what the
// one before it told.
func (p published) keepTold(g *topology.Graph, s *topology.Statuses) {
	for key, status := range s.Gateways {
		gateway := g.Gateways[key]
		desired, old := condition(status.Conditions, programmed), condition(p.gateway(key).Conditions, programmed)
		if desired != nil && old != nil && desired.Status == metav1.ConditionTrue && old.Status == metav1.ConditionTrue {
			retell(&status, gateway, s, desired.Message, old.Message)
		}
	}
}

// retell replaces the message of Programmed in everything that repeats it.
func retell(status *gatewayv1.GatewayStatus, g *topology.Gateway, s *topology.Statuses, message, by string) {
	replace := func(conditions []metav1.Condition) {
		if c := condition(conditions, programmed); c != nil {
			c.Message = strings.Replace(c.Message, message, by, 1)
		}
	}
	replace(status.Conditions)
	for i := range status.Listeners {
		replace(status.Listeners[i].Conditions)
	}
	for _, set := range setsOf(g) {
		status := s.ListenerSets[set.Key]
		replace(status.Conditions)
		for i := range status.Listeners {
			replace(status.Listeners[i].Conditions)
		}
	}
}

// setsOf returns the ListenerSets that have listeners at a Gateway.
func setsOf(g *topology.Gateway) []*topology.ListenerSet {
	var sets []*topology.ListenerSet
	for _, listener := range g.Listeners {
		if n := len(sets); listener.Set != nil && (n == 0 || sets[n-1] != listener.Set) {
			sets = append(sets, listener.Set)
		}
	}
	return sets
}

func publishedListener(published []gatewayv1.ListenerStatus, name gatewayv1.SectionName) []metav1.Condition {
	for i := range published {
		if published[i].Name == name {
			return published[i].Conditions
		}
	}
	return nil
}

func publishedEntry(published []gatewayv1.ListenerEntryStatus, name gatewayv1.SectionName) []metav1.Condition {
	for i := range published {
		if published[i].Name == name {
			return published[i].Conditions
		}
	}
	return nil
}

// condition returns the condition of a type, nil without one.
func condition(conditions []metav1.Condition, kind string) *metav1.Condition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}
