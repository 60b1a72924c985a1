package agent

import (
	componentmetrics "k8s.io/component-base/metrics"

	"github.com/portway-dev/portway/internal/announce"
)

// speakerMetrics reads the numbers of a speaker when somebody asks for them.
type speakerMetrics struct {
	componentmetrics.BaseStableCollector
	*speaker

	announced, members, changes, answers, frames, refused *componentmetrics.Desc
}

func newSpeakerMetrics(s *speaker) *speakerMetrics {
	desc := func(name, help string, labels ...string) *componentmetrics.Desc {
		return componentmetrics.NewDesc(componentmetrics.BuildFQName("portway", "agent", name), help, labels, nil, componentmetrics.ALPHA, "")
	}
	return &speakerMetrics{
		speaker: s,
		// The sum over all nodes is less than there are addresses: some are answered for by
		// nobody, see the conditions Announced of Gateways.
		announced: desc("announced_addresses", "Addresses of pools that this node answers for on its network."),
		// Fewer alive than expected for long: the NodeReport says who is missing, and each side
		// may answer for the same addresses.
		members: desc("announcers", "Nodes that announce addresses together: those that are alive, this one included, and those expected.", "state"),
		// Rising without nodes that come or go: they cannot reach each other reliably.
		changes: desc("announcement_changes_total", "Times that an address was taken over or given up by this node, was answered for by two nodes (split_brain), or was found to be a stranger's (conflict_began) and no longer to be (conflict_ended).", "change"),
		// Flat while clients come: requests for the addresses do not reach this node.
		answers: desc("neighbor_answers_total", "ARP requests and IPv6 neighbor solicitations for addresses of pools that this node answered.", "family"),
		frames:  desc("announcement_frames_total", "Frames sent to announce addresses or to find out whether a stranger has one, and those of them and of answers that the kernel did not take (failed).", "kind"),
		// Rising: other agents have another key, or somebody tries.
		refused: desc("announcer_messages_refused_total", "Messages on the port of announcers that no key opens."),
	}
}

// DescribeWithStability implements componentmetrics.StableCollector.
func (m *speakerMetrics) DescribeWithStability(out chan<- *componentmetrics.Desc) {
	for _, desc := range []*componentmetrics.Desc{m.announced, m.members, m.changes, m.answers, m.frames, m.refused} {
		out <- desc
	}
}

// changeNames are label values.
var changeNames = map[announce.ChangeKind]string{
	announce.Taken: "taken", announce.Yielded: "yielded", announce.SplitBrain: "split_brain",
	announce.ConflictBegan: "conflict_began", announce.ConflictEnded: "conflict_ended",
}

// CollectWithStability implements componentmetrics.StableCollector.
func (m *speakerMetrics) CollectWithStability(out chan<- componentmetrics.Metric) {
	c, owned, expected := m.counters()
	gauge := func(desc *componentmetrics.Desc, value int, labels ...string) {
		out <- componentmetrics.NewLazyConstMetric(desc, componentmetrics.GaugeValue, float64(value), labels...)
	}
	count := func(desc *componentmetrics.Desc, value uint64, labels ...string) {
		out <- componentmetrics.NewLazyConstMetric(desc, componentmetrics.CounterValue, float64(value), labels...)
	}
	gauge(m.announced, owned)
	gauge(m.members, c.Members, "alive")
	gauge(m.members, expected, "expected")
	for kind, name := range changeNames {
		count(m.changes, c.Changes[kind], name)
	}
	count(m.answers, c.AnswersIPv4, "ipv4")
	count(m.answers, c.AnswersIPv6, "ipv6")
	count(m.frames, c.Announcements, "announcement")
	count(m.frames, c.Probes, "probe")
	count(m.frames, c.SendErrors, "failed")
	count(m.refused, c.Refused)
}
