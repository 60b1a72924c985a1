package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/component-base/metrics/testutil"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/announce"
	"github.com/portway-dev/portway/internal/layer2"
)

func TestSpeakerMetrics(t *testing.T) {
	a := &countingAnnouncer{}
	s := &speaker{
		peers:      &peers{nodes: map[string][]netip.Addr{"n1": {nodeIP}, "n2": {nodeIP.Next()}}},
		past:       announce.Counters{Counters: layer2.Counters{AnswersIPv4: 40}, Changes: map[announce.ChangeKind]uint64{announce.Taken: 1}},
		running:    a,
		announcing: []v1alpha1.Announced{{Addresses: []string{"203.0.113.7", "203.0.113.8"}}, {Addresses: []string{"203.0.113.9"}}},
	}
	a.speaker = s
	m := newInstruments()
	m.registry.CustomMustRegister(newSpeakerMetrics(s))
	const want = `
# HELP portway_agent_announced_addresses [ALPHA] Addresses of pools that this node answers for on its network.
# TYPE portway_agent_announced_addresses gauge
portway_agent_announced_addresses 3
# HELP portway_agent_announcers [ALPHA] Nodes that announce addresses together: those that are alive, this one included, and those expected.
# TYPE portway_agent_announcers gauge
portway_agent_announcers{state="alive"} 1
portway_agent_announcers{state="expected"} 2
# HELP portway_agent_neighbor_answers_total [ALPHA] ARP requests and IPv6 neighbor solicitations for addresses of pools that this node answered.
# TYPE portway_agent_neighbor_answers_total counter
portway_agent_neighbor_answers_total{family="ipv4"} 42
portway_agent_neighbor_answers_total{family="ipv6"} 0
`
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want),
		"portway_agent_announced_addresses", "portway_agent_announcers", "portway_agent_neighbor_answers_total"); err != nil {
		t.Error(err)
	}
	_, text := get(t, healthHandler(newProgress(clock.RealClock{}), m), "/metrics")
	if !strings.Contains(text, `portway_agent_announcement_changes_total{change="taken"} 4`) {
		t.Errorf("no changes in\n%s", text)
	}
	problems, err := testutil.NewPromLinter(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

// TestNothingWaitsForAnAnnouncer: who asks one holds nothing that the loop needs.
func TestNothingWaitsForAnAnnouncer(t *testing.T) {
	a := &countingAnnouncer{}
	s := &speaker{running: a, peers: &peers{}, clock: clock.RealClock{}, began: time.Now()}
	a.speaker = s
	s.counters()
	if err := s.ready(); err != nil {
		t.Error(err)
	}
	if a.asked != 2 || a.waits > 0 {
		t.Errorf("asked %d times, %d of them while the loop would wait", a.asked, a.waits)
	}
}

// countingAnnouncer only counts, also how often the loop would wait for it.
type countingAnnouncer struct {
	*fakeAnnouncer
	speaker      *speaker
	asked, waits int
}

func (a *countingAnnouncer) ask() {
	if a.asked++; !a.speaker.mu.TryLock() {
		a.waits++
		return
	}
	a.speaker.mu.Unlock()
}

func (a *countingAnnouncer) Joined() bool {
	a.ask()
	return true
}

func (a *countingAnnouncer) Counters() announce.Counters {
	a.ask()
	return announce.Counters{Members: 1, Counters: layer2.Counters{AnswersIPv4: 2}, Changes: map[announce.ChangeKind]uint64{announce.Taken: 3}}
}
