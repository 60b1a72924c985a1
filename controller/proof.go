package controller

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// prover compares what nodes report with what the decision expects of them. What
// it found is kept until the node's report or the expectation changes, so that
// one report costs the work of one report. Not safe for concurrent use.
type prover struct {
	timeout  time.Duration // of silent agents, for the message
	expected *expectation
	proofs   map[string]proof
	missing  map[string]gatewaySet // of proofs, by the set's key
}

// gatewaySet is one for all nodes that lack the same: after an edit that is all of
// them, and thousands of nodes by thousands of Gateways would be much to keep.
type gatewaySet = map[types.NamespacedName]bool

// expectation is the digests nodes have to prove. Immutable.
type expectation struct {
	byGateway map[types.NamespacedName]string
	byDigest  []expected // sorted; a digest covers its Gateway's name and is unique
}

type expected struct {
	digest  string
	gateway types.NamespacedName
}

// proof is what came out for one node, and what it came from.
type proof struct {
	expected *expectation
	report   *v1alpha1.NodeReport
	silent   bool
	missing  string // key of result.Missing
	result   topology.NodeReport
}

func newProver(timeout time.Duration) *prover {
	return &prover{timeout: timeout, expected: &expectation{}, proofs: map[string]proof{}, missing: map[string]gatewaySet{}}
}

// reports returns what the nodes that count have proven of a decision.
func (p *prover) reports(g *topology.Graph, members []member) topology.Reports {
	p.expect(g)
	proofs, missing := make(map[string]proof, len(members)), map[string]gatewaySet{}
	var r topology.Reports
	for _, m := range members {
		if !m.counts {
			continue
		}
		known, ok := p.proofs[m.name]
		if !ok || known.expected != p.expected || known.report != m.report || known.silent != m.silent {
			known = p.prove(m)
		}
		proofs[m.name], missing[known.missing] = known, known.result.Missing
		r.Nodes = append(r.Nodes, known.result)
		if m.silent {
			r.Silent = append(r.Silent, m.name)
		}
	}
	p.proofs, p.missing = proofs, missing
	return r
}

// expect takes over the digests of a decision; unchanged ones keep the proofs.
func (p *prover) expect(g *topology.Graph) {
	byGateway := make(map[types.NamespacedName]string, len(g.Gateways))
	for key, gateway := range g.Gateways {
		if gateway.Digest != "" {
			byGateway[key] = gateway.Digest
		}
	}
	if maps.Equal(byGateway, p.expected.byGateway) {
		return
	}
	e := &expectation{byGateway: byGateway, byDigest: make([]expected, 0, len(byGateway))}
	for gateway, digest := range byGateway {
		e.byDigest = append(e.byDigest, expected{digest, gateway})
	}
	slices.SortFunc(e.byDigest, func(a, b expected) int { return cmp.Compare(a.digest, b.digest) })
	p.expected, p.missing = e, map[string]gatewaySet{}
}

// away are the nodes that are not on the roll and have said that they answer for addresses.
func (c *controller) away() []topology.AwayNode {
	var all []topology.AwayNode
	for name, report := range c.fleet.Reports {
		node := c.fleet.Nodes[name]
		if node == nil || len(report.Report.Announcing) == 0 || !readable(report) || sinceBoot(node, report) == nil {
			continue
		}
		if !slices.ContainsFunc(c.roll.members, func(m member) bool { return m.name == name && m.counts }) {
			all = append(all, topology.AwayNode{Node: name, Announces: cluster.Announces(&report.Report)})
		}
	}
	return all
}

func (p *prover) prove(m member) proof {
	made := proof{expected: p.expected, report: m.report, silent: m.silent, result: topology.NodeReport{Node: m.name}}
	result := &made.result
	if !readable(m.report) {
		result.Unheard = unreadable(m.report)
	} else {
		result.Committed = p.expected.byGateway
		result.Findings = cluster.Findings(m.report.Report.Findings)
		result.Announces = cluster.Announces(&m.report.Report)
		if made.missing = p.expected.missing(m.report.Report.Committed); made.missing != "" {
			result.Missing = p.gateways(made.missing)
			result.Errors = reportedErrors(m.report)
		}
	}
	if m.silent {
		result.Unheard = topology.AgentSilent(cluster.AgentLeasePrefix+m.name, p.timeout)
	}
	return made
}

// missing returns the key of the set of Gateways whose digest is not in the list, a
// bit for each; empty: all are.
func (e *expectation) missing(committed []string) string {
	if !slices.IsSorted(committed) {
		committed = slices.Sorted(slices.Values(committed))
	}
	var bits []byte
	i := 0
	for n, want := range e.byDigest {
		for i < len(committed) && committed[i] < want.digest {
			i++
		}
		if i < len(committed) && committed[i] == want.digest {
			continue
		}
		if bits == nil {
			bits = make([]byte, (len(e.byDigest)+7)/8)
		}
		bits[n/8] |= 1 << (n % 8)
	}
	return string(bits)
}

// gateways returns the set that a key stands for.
func (p *prover) gateways(key string) gatewaySet {
	if set, ok := p.missing[key]; ok {
		return set
	}
	set := gatewaySet{}
	for n, want := range p.expected.byDigest {
		if key[n/8]&(1<<(n%8)) != 0 {
			set[want.gateway] = true
		}
	}
	p.missing[key] = set
	return set
}

func reportedErrors(report *v1alpha1.NodeReport) map[types.NamespacedName]string {
	if len(report.Report.Errors) == 0 {
		return nil
	}
	errs := make(map[types.NamespacedName]string, len(report.Report.Errors))
	for _, e := range report.Report.Errors {
		namespace, name, _ := strings.Cut(e.Gateway, "/")
		errs[types.NamespacedName{Namespace: namespace, Name: name}] = e.Message
	}
	return errs
}
