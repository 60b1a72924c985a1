package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// report turns what the backend achieved into what the decision wants to know.
// An error of the whole backend counts for every Gateway whose present digest
// is not committed.
func report(node string, graph *topology.Graph, results rules.Results, failure error) topology.NodeReport {
	r := topology.NodeReport{
		Node:      node,
		Committed: make(map[types.NamespacedName]string, len(results.Committed)),
		Errors:    map[types.NamespacedName]string{},
	}
	for key, gateway := range graph.Gateways {
		committed, ok := results.Committed[key.String()]
		if ok {
			r.Committed[key] = committed
		}
		switch err := results.Errors[key.String()]; {
		case err != nil:
			r.Errors[key] = err.Error()
		case failure != nil && committed != gateway.Digest:
			r.Errors[key] = failure.Error()
		}
	}
	return r
}

// proof is the last report of a pass without an error, for as long as it holds: most passes
// change endpoints only, and there may be thousands of Gateways.
type proof struct {
	graph     *topology.Graph
	committed map[string]string
	report    topology.NodeReport
}

// of returns the report of a pass. It must not be changed.
func (p *proof) of(node string, graph *topology.Graph, results rules.Results, failure error) topology.NodeReport {
	faultless := failure == nil && len(results.Errors) == 0
	if faultless && p.graph == graph && rules.SameMap(p.committed, results.Committed) {
		return p.report
	}
	r := report(node, graph, results, failure)
	if *p = (proof{}); faultless {
		*p = proof{graph, results.Committed, r}
	}
	return r
}

// withhold adds what this node does not serve: a Gateway that is not served everywhere is
// not proven, whatever is in the kernel.
func withhold(r *topology.NodeReport, withheld map[types.NamespacedName]string) {
	if len(withheld) == 0 {
		return
	}
	r.Committed, r.Errors = maps.Clone(r.Committed), maps.Clone(r.Errors)
	for key, why := range withheld {
		delete(r.Committed, key)
		if r.Errors[key] == "" {
			r.Errors[key] = why
		}
	}
}

// programError is why a pass has to be tried again, naming the Gateways.
func programError(results rules.Results, failure error) error {
	if failure != nil {
		return fmt.Errorf("program the kernel: %w", failure)
	}
	errs := make([]error, 0, len(results.Errors))
	for _, gateway := range slices.Sorted(maps.Keys(results.Errors)) {
		errs = append(errs, fmt.Errorf("program Gateway %s: %w", gateway, results.Errors[gateway]))
	}
	return errors.Join(errs...)
}

// failedWhole reports whether a failure is of the whole backend: no Gateway is to
// blame for it, or all of them share it.
func failedWhole(state *rules.State, results rules.Results, failure error) bool {
	blamed, all := false, true
	for gateway := range state.Digests() {
		err := results.Errors[gateway]
		blamed = blamed || err != nil && errors.Is(failure, err)
		all = all && err != nil
	}
	return !blamed || all
}

// sameReport reports whether two reports say the same.
func sameReport(a, b topology.NodeReport) bool {
	return a.Node == b.Node && (rules.SameMap(a.Committed, b.Committed) || maps.Equal(a.Committed, b.Committed)) && maps.Equal(a.Errors, b.Errors) && slices.Equal(a.Findings, b.Findings)
}
