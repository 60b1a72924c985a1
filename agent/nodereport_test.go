package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2/ktesting"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// viewOf is a view of Gateways "a/g<i>" with these digests; an empty one failed.
func viewOf(digests ...string) view {
	v := view{
		addresses: []netip.Addr{nodeIP},
		report:    topology.NodeReport{Node: "n1", Committed: map[types.NamespacedName]string{}, Errors: map[types.NamespacedName]string{}},
	}
	for i, digest := range digests {
		key := types.NamespacedName{Namespace: "a", Name: fmt.Sprintf("g%d", i)}
		if digest == "" {
			v.report.Errors[key] = "no buffer space"
			continue
		}
		v.report.Committed[key] = digest
	}
	return v
}

func newTestReportWriter() (*reportWriter, *fakeReports) {
	reports := newFakeReports()
	return &reportWriter{
		node: "n1", client: reports, revisions: looking{reports: reports},
		owner: func(context.Context) (metav1.OwnerReference, error) {
			return metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u"}, nil
		},
		describe: description{version: "v1.2.3", backend: "nftables"},
		fresh:    make(chan struct{}, 1),
	}, reports
}

func TestNodeReport(t *testing.T) {
	d := description{version: "v1.2.3", backend: "nftables", bootID: "b1"}
	v := viewOf("1:b", "", "1:a")
	v.findings = []v1alpha1.Finding{{Reason: "PacketForwarding", Message: strings.Repeat("é", 300)}}
	v.report.Committed[types.NamespacedName{Name: "not accepted"}] = ""
	got := d.nodeReport(&v)
	want := v1alpha1.Report{
		Version: 1, AgentVersion: "v1.2.3", Backend: "nftables", BootID: "b1", Addresses: []string{"192.0.2.1"},
		Committed: []string{"1:a", "1:b"}, Gateways: 2, Failing: 1,
		Errors:   []v1alpha1.GatewayError{{Gateway: "a/g1", Message: "no buffer space"}},
		Findings: []v1alpha1.Finding{{Reason: "PacketForwarding", Message: strings.Repeat("é", 254) + "…"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// managed is what field management keeps of a value: a name for each field that can
// be owned on its own, as the schema says.
func managed(schema listSchema, value any) map[string]any {
	fields := map[string]any{}
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			fields["f:"+name] = managed(schema.Properties[name], v)
		}
	case []any:
		if schema.ListType != "map" {
			break
		}
		for _, v := range value {
			item, keys := v.(map[string]any), map[string]any{}
			for _, key := range schema.ListMapKeys {
				keys[key] = item[key]
			}
			name, _ := json.Marshal(keys)
			fields["k:"+string(name)] = managed(*schema.Items, v)
			fields["k:"+string(name)].(map[string]any)["."] = map[string]any{}
		}
	}
	return fields
}

// listSchema is what the test reads of a schema in a CRD.
type listSchema struct {
	Properties  map[string]listSchema `json:"properties"`
	Items       *listSchema           `json:"items"`
	ListType    string                `json:"x-kubernetes-list-type"`
	ListMapKeys []string              `json:"x-kubernetes-list-map-keys"`
}

// stored is an object as the API server keeps and sends it.
func stored(t *testing.T, r *v1alpha1.NodeReport) []byte {
	t.Helper()
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					V3 listSchema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	text, err := os.ReadFile("../deploy/crds/portway.dev_nodereports.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &crd)
	}
	if err != nil {
		t.Fatal(err)
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := json.Marshal(managed(crd.Spec.Versions[0].Schema.V3, map[string]any{"report": object["report"]}))
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.Unix(1767225600, 0)
	r.UID, r.ResourceVersion, r.Generation, r.CreationTimestamp = types.UID(strings.Repeat("u", 36)), strings.Repeat("9", 20), 1<<31, now
	r.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "portway-agent", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "portway.dev/v1alpha1", Time: &now,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(fields)),
	}}
	text, err = json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestNodeReportIsSmall is with the longest names and texts that there can be.
func TestNodeReportIsSmall(t *testing.T) {
	const gateways, limit = 5000, 128 << 10
	for _, test := range []struct {
		name           string
		failing, found int
		message        string
	}{
		{"as it should be", 0, 0, ""},
		{"short errors", gateways, 0, "no"},
		{"long errors", gateways, 0, strings.Repeat("e", 300)},
		{"errors that grow in JSON", gateways, 0, strings.Repeat("<é>\n", 500)}, // "<" takes six bytes
		{"errors of a few", 100, 0, strings.Repeat("e", 40)},
		{"findings", 0, 60, strings.Repeat("<", 600)},
		{"findings and errors", gateways, 60, strings.Repeat("e", 300)},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := view{report: topology.NodeReport{Committed: map[types.NamespacedName]string{}, Errors: map[types.NamespacedName]string{}}}
			for i := range gateways {
				key := types.NamespacedName{Namespace: strings.Repeat("n", 63), Name: fmt.Sprintf("%s%04d", strings.Repeat("g", 249), i)}
				v.report.Committed[key] = fmt.Sprintf("1:%012d", i)
				if i < test.failing {
					v.report.Errors[key] = test.message
				}
			}
			for i := range 100 {
				v.addresses = append(v.addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x", 0x1000+i)))
			}
			for range test.found {
				v.findings = append(v.findings, v1alpha1.Finding{Reason: "PacketForwarding", Message: test.message})
			}
			d := description{version: strings.Repeat("v", 200), backend: "nftables", bootID: strings.Repeat("b", 200)}
			r := d.nodeReport(&v)
			name := strings.Repeat("n", 253)
			text := stored(t, &v1alpha1.NodeReport{
				TypeMeta: metav1.TypeMeta{APIVersion: "portway.dev/v1alpha1", Kind: "NodeReport"},
				ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
					{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(strings.Repeat("u", 36))},
				}},
				Report: r,
			})
			t.Logf("%d bytes, %d errors, %d findings", len(text), len(r.Errors), len(r.Findings))
			if len(text) > limit {
				t.Errorf("%d bytes, want less than %d", len(text), limit)
			}
			if len(r.Committed) != gateways || int(r.Failing) != test.failing || len(r.Addresses) > 64 || len(r.Errors) > 100 || len(r.Findings) > 50 {
				t.Errorf("%d digests, %d failing, %d errors, %d findings", len(r.Committed), r.Failing, len(r.Errors), len(r.Findings))
			}
			for _, e := range r.Errors {
				if utf8.RuneCountInString(e.Message) > maxErrorMessage || !utf8.ValidString(e.Message) {
					t.Fatalf("message %q", e.Message)
				}
			}
		})
	}
}

func TestReportIsWrittenWhenItChanges(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	w, reports := newTestReportWriter()
	pass := func(full bool, want ...string) {
		t.Helper()
		if err := w.pass(ctx, full); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, reports.written()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	}
	pass(true) // nothing was programmed: what an agent before said stands
	w.offer(viewOf("1:a"))
	pass(false, "create n1")
	if owner := reports.held["n1"].OwnerReferences; len(owner) != 1 || owner[0].Kind != "Node" || owner[0].UID != "u" || owner[0].BlockOwnerDeletion != nil {
		t.Errorf("owner %+v", owner)
	}
	w.offer(viewOf("1:a"))
	pass(false)
	pass(true)
	w.offer(viewOf("1:b"))
	w.offer(viewOf("1:b", ""))
	pass(false, "update n1")
	if got := reports.report("n1"); got.Failing != 1 || got.Committed[0] != "1:b" {
		t.Errorf("report %+v", got)
	}

	// Somebody else changes or removes it.
	reports.edit("n1", func(r *v1alpha1.NodeReport) { r.Labels = map[string]string{"mine": "yes"} })
	pass(true)
	reports.edit("n1", func(r *v1alpha1.NodeReport) { r.Report.Committed = nil })
	pass(false)
	pass(true, "update n1")
	if reports.held["n1"].Labels["mine"] != "yes" {
		t.Error("a foreign label is gone")
	}
	reports.edit("n1", func(r *v1alpha1.NodeReport) { r.Report.Committed = nil })
	w.offer(viewOf("1:c"))
	pass(false, "update n1") // over a conflict
	reports.edit("n1", nil)
	w.check()
	pass(false, "create n1")
	reports.edit("n1", nil)
	w.offer(viewOf("1:d"))
	pass(false, "create n1")

	// A new process that has the same to say.
	again, _ := newTestReportWriter()
	again.client, again.revisions = w.client, w.revisions
	again.offer(viewOf("1:d"))
	if err := again.pass(ctx, true); err != nil || len(reports.written()) != 0 {
		t.Errorf("a restart rewrote the report: %v", err)
	}
}

func TestReportSurvivesAPIErrors(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	w, reports := newTestReportWriter()
	w.offer(viewOf("1:a"))
	for _, failure := range []error{errors.New("connection refused"), apierrors.NewInternalError(errors.New("no")), apierrors.NewTooManyRequests("later", 1)} {
		reports.failure = failure
		if err := w.pass(ctx, true); !errors.Is(err, failure) {
			t.Errorf("error %v, want %v", err, failure)
		}
	}
	reports.failure = nil
	if err := w.pass(ctx, true); err != nil || len(reports.written()) != 1 {
		t.Errorf("not written afterwards: %v", err)
	}
}
