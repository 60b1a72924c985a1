package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/shorten"
)

// Limits of a NodeReport, those of its type and our own for its size.
const (
	maxReportAddresses = 64
	maxReportErrors    = 100
	maxReportFindings  = 50
	maxErrorMessage    = 256
	maxFindingMessage  = 512
	maxAgentVersion    = 128
	maxBootID          = 128
	// errorBudget bounds the bytes of errors and findings together: with the 85 KB
	// of 5000 digests a report stays below 128 KiB.
	errorBudget = 36 << 10
)

// apiTimeout bounds a request, or a few that belong together, to the API server.
const apiTimeout = 10 * time.Second

// description is what a report says that passes do not change.
type description struct {
	version string
	backend string
	bootID  string // of the kernel; empty: not known
}

// Reasons of findings.
const (
	reasonForwarding = v1alpha1.FindingPacketForwarding // of what preflight finds
	reasonKernel     = "KernelLimitation"
	reasonBackend    = "IPTablesLimitation"
)

// nodeReport makes what the API is told from what a pass found. It is the same for
// the same outcome: there is no time in it and nothing of endpoints.
func (d *description) nodeReport(v *view) v1alpha1.Report {
	r := v1alpha1.Report{
		Version:      v1alpha1.ReportVersion,
		AgentVersion: shorten.To(d.version, maxAgentVersion),
		Backend:      d.backend,
		BootID:       shorten.To(d.bootID, maxBootID),
		Failing:      int32(len(v.report.Errors)),
		Announcing:   v.announcing,
	}
	for _, addr := range v.addresses[:min(len(v.addresses), maxReportAddresses)] {
		r.Addresses = append(r.Addresses, addr.String())
	}
	for _, digest := range v.report.Committed {
		if digest != "" { // a Gateway that is not accepted has none
			r.Committed = append(r.Committed, digest)
		}
	}
	slices.Sort(r.Committed)
	r.Gateways = int32(len(r.Committed))

	budget := errorBudget
	for _, finding := range v.findings {
		finding.Message = shorten.To(finding.Message, maxFindingMessage)
		if budget -= jsonSize(finding); budget < 0 || len(r.Findings) == maxReportFindings {
			break
		}
		r.Findings = append(r.Findings, finding)
	}
	messages := make(map[string]string, len(v.report.Errors))
	for gateway, message := range v.report.Errors {
		messages[gateway.String()] = message
	}
	for _, gateway := range slices.Sorted(maps.Keys(messages)) {
		failure := v1alpha1.GatewayError{Gateway: gateway, Message: shorten.To(messages[gateway], maxErrorMessage)}
		if budget -= jsonSize(failure); budget < 0 || len(r.Errors) == maxReportErrors {
			break
		}
		r.Errors = append(r.Errors, failure)
	}
	return r
}

func jsonSize(value any) int {
	text, err := json.Marshal(value)
	if err != nil {
		return errorBudget + 1
	}
	return len(text) + 1
}

// revisions tells which revision of an object the API holds, at little cost.
type revisions interface {
	Get(ctx context.Context, name string, options metav1.GetOptions, subresources ...string) (*metav1.PartialObjectMetadata, error)
}

// reportWriter keeps this node's NodeReport. It works beside the loop: an API
// server that is slow or away must not hold up an endpoint change.
type reportWriter struct {
	node      string
	client    cluster.NodeReportWriter
	revisions revisions
	owner     func(context.Context) (metav1.OwnerReference, error)
	describe  description

	fresh chan struct{} // there may be something to write
	doubt atomic.Bool   // somebody may have removed the report

	mu     sync.Mutex // guards latest
	latest *view

	// Of the goroutine that runs.
	held *v1alpha1.NodeReport // as it is in the API; nil: not known
}

// offer hands over the latest view; one that says nothing new is dropped.
func (w *reportWriter) offer(v view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latest != nil && sameReport(w.latest.report, v.report) &&
		slices.Equal(w.latest.addresses, v.addresses) && slices.Equal(w.latest.findings, v.findings) &&
		sameAnnounced(w.latest.announcing, v.announcing) {
		return
	}
	v.addresses = append([]netip.Addr{}, v.addresses...)
	w.latest = &view{report: v.report, addresses: v.addresses, findings: v.findings, announcing: v.announcing}
	signal(w.fresh)
}

// check asks for a look at whether the API still holds the report.
func (w *reportWriter) check() {
	w.doubt.Store(true)
	signal(w.fresh)
}

// pass writes the report if it differs from what the API holds. A full pass also
// looks at whether somebody else changed it there.
func (w *reportWriter) pass(ctx context.Context, full bool) error {
	w.mu.Lock()
	latest := w.latest
	w.mu.Unlock()
	if latest == nil {
		return nil // nothing was programmed yet: what is there is from before
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if full = w.doubt.Swap(false) || full; full && w.held != nil {
		if err := w.verify(ctx); err != nil {
			return fmt.Errorf("look at NodeReport %s: %w", w.node, err)
		}
	}
	want := w.describe.nodeReport(latest)
	err := w.write(ctx, want)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		// Somebody else wrote or removed it: look and try again.
		w.held = nil
		err = w.write(ctx, want)
	}
	if err != nil {
		w.held = nil
		return fmt.Errorf("write NodeReport %s: %w", w.node, err)
	}
	return nil
}

// verify forgets what the API held if it no longer does.
func (w *reportWriter) verify(ctx context.Context) error {
	now, err := w.revisions.Get(ctx, w.node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		w.held = nil
	case err != nil:
		return err
	case now.UID != w.held.UID || now.ResourceVersion != w.held.ResourceVersion:
		w.held = nil
	}
	return nil
}

func (w *reportWriter) write(ctx context.Context, want v1alpha1.Report) (err error) {
	if w.held == nil {
		w.held, err = w.client.Get(ctx, w.node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return w.create(ctx, want)
		}
		if err != nil {
			return err
		}
	}
	if equality.Semantic.DeepEqual(w.held.Report, want) {
		return nil
	}
	next := w.held.DeepCopy()
	next.Report = want
	if next, err = w.client.Update(ctx, next, metav1.UpdateOptions{}); err == nil {
		w.held = next
	}
	return err
}

func (w *reportWriter) create(ctx context.Context, want v1alpha1.Report) error {
	w.held = nil
	owner, err := w.owner(ctx)
	if err != nil {
		return err
	}
	made, err := w.client.Create(ctx, &v1alpha1.NodeReport{
		ObjectMeta: metav1.ObjectMeta{Name: w.node, OwnerReferences: []metav1.OwnerReference{owner}},
		Report:     want,
	}, metav1.CreateOptions{})
	if err == nil {
		w.held = made
	}
	return err
}
