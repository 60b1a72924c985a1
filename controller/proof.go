package controller

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// prover compares what nodes report with what the decision expects of them. What
// it found is kept until the node's report or the expectation changes, so that
// one report costs the work of one report. Not safe for concurrent use.
type prover struct {
	timeout  time.Duration // of silent agents, for the message
	expected *expectation
	proofs   map[string]proof
}

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
	result   topology.NodeReport
}

func newProver(timeout time.Duration) *prover {
	return &prover{timeout: timeout, expected: &expectation{}, proofs: map[string]proof{}}
}

// reports returns what the nodes that count have proven of a decision.
func (p *prover) reports(g *topology.Graph, members []member) topology.Reports {
	p.expect(g)
	proofs := make(map[string]proof, len(members))
	var r topology.Reports
	for _, m := range members {
		if !m.counts {
			continue
		}
		known, ok := p.proofs[m.name]
		if !ok || known.expected != p.expected || known.report != m.report || known.silent != m.silent {
			known = proof{p.expected, m.report, m.silent, p.prove(m)}
		}
		proofs[m.name] = known
		r.Nodes = append(r.Nodes, known.result)
		if m.silent {
			r.Silent = append(r.Silent, m.name)
		}
	}
	p.proofs = proofs
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
	p.expected = e
}

func (p *prover) prove(m member) topology.NodeReport {
	result := topology.NodeReport{Node: m.name}
	if !readable(m.report) {
		result.Unheard = unreadable(m.report)
	} else {
		result.Committed = p.expected.found(m.report.Report.Committed)
		if len(result.Committed) < len(p.expected.byGateway) {
			result.Errors = reportedErrors(m.report)
		}
	}
	if m.silent {
		result.Unheard = topology.AgentSilent(p.timeout)
	}
	return result
}

// found returns the Gateways whose digest is in the list. Nodes that have proven
// everything, which is nearly always all of them, share one map.
func (e *expectation) found(committed []string) map[types.NamespacedName]string {
	if !slices.IsSorted(committed) {
		committed = slices.Sorted(slices.Values(committed))
	}
	var missing []types.NamespacedName
	i := 0
	for _, want := range e.byDigest {
		for i < len(committed) && committed[i] < want.digest {
			i++
		}
		if i == len(committed) || committed[i] != want.digest {
			missing = append(missing, want.gateway)
		}
	}
	if len(missing) == 0 {
		return e.byGateway
	}
	found := maps.Clone(e.byGateway)
	for _, gateway := range missing {
		delete(found, gateway)
	}
	return found
}

func reportedErrors(report *v1alpha1.NodeReport) map[types.NamespacedName]string {
	errs := make(map[types.NamespacedName]string, len(report.Report.Errors))
	for _, e := range report.Report.Errors {
		namespace, name, _ := strings.Cut(e.Gateway, "/")
		errs[types.NamespacedName{Namespace: namespace, Name: name}] = e.Message
	}
	return errs
}
