package cluster

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const everything = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: web
  namespace: edge
  labels: {a: "1", b.c/d: e}
  creationTimestamp: 2024-05-01T10:00:00Z
  generation: 7
  managedFields:
  - manager: kubectl
    operation: Apply
    fieldsV1: {"f:spec": {"f:listeners": {}}}
spec:
  gatewayClassName: c
  infrastructure: {labels: {x: z}}
  addresses: [{value: 192.0.2.1}, {type: IPAddress, value: "2001:db8::1"}]
  allowedListeners: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}}
  listeners:
  - name: a
    protocol: TCP
    port: 0x50
    allowedRoutes: {kinds: [{kind: TCPRoute}], namespaces: {from: All}}
  - name: b
    <<: &udp {protocol: UDP, allowedRoutes: {namespaces: {from: All}}}
    port: 53
  - <<: *udp
    name: c
    port: 54
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs:
  - {name: web, namespace: edge, sectionName: a, port: 80}
  rules:
  - name: x
    backendRefs:
    - {name: s, port: 80, weight: 3}
    - {group: "", kind: Service, name: t, namespace: other, port: 81}
---
apiVersion: v1
kind: Service
metadata: {name: s, annotations: null}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ipFamilies: [IPv4]
  selector: {app: s}
  ports:
  - {name: http, port: 80, targetPort: web, protocol: TCP}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP, appProtocol: kubernetes.io/h2c}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.9}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: node-1
  zone: z
  hints: {forZones: [{name: z}]}
  targetRef: {kind: Pod, name: p, namespace: default, uid: "123"}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: edge}]
  to: [{group: "", kind: Service, name: s}]
`

// TestDecodeAgreesWithAPIMachinery decodes documents with our decoder and with the
// one of the API machinery.
func TestDecodeAgreesWithAPIMachinery(t *testing.T) {
	theirs := map[string]Object{
		"Gateway": &gatewayv1.Gateway{}, "TCPRoute": &gatewayv1.TCPRoute{}, "Service": &corev1.Service{},
		"EndpointSlice": &discoveryv1.EndpointSlice{}, "ReferenceGrant": &gatewayv1.ReferenceGrant{},
	}
	for c := range split([]byte(everything)) {
		root, broken := parseYAML(c.text)
		if broken != nil {
			t.Fatal(broken)
		}
		name := memberText(root, "kind")
		t.Run(name, func(t *testing.T) {
			ours := kinds[name].empty()
			for _, p := range decode(root, ours) {
				t.Error(p)
			}
			if err := yaml.UnmarshalStrict(c.text, theirs[name]); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(theirs[name], ours); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
		})
	}
}

// TestDecodeReadsJSON reads what kubectl -o json prints, tabs included.
func TestDecodeReadsJSON(t *testing.T) {
	objects, err := loadText(t, "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\", \"creationTimestamp\": null}}]\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if n := objects.Snapshot.Namespaces["a"]; n == nil || n.Labels["kubernetes.io/metadata.name"] != "a" {
		t.Errorf("got %v", objects.Snapshot.Namespaces)
	}
}

func TestAliasesAreBounded(t *testing.T) {
	// Each list holds the one before it ten times.
	bomb := gatewayHead + "  a0: &a0 [x]\n"
	for i := 1; i < 12; i++ {
		before := strings.TrimSuffix(strings.Repeat("*a"+strconv.Itoa(i-1)+", ", 10), ", ")
		bomb += "  a" + strconv.Itoa(i) + ": &a" + strconv.Itoa(i) + " [" + before + "]\n"
	}
	const message = "aliases repeat too much; write the values out"
	for _, text := range []string{
		bomb + "  addresses: *a11\n",
		bomb + "  infrastructure: {labels: *a11}\n",
		gatewayHead + "  addresses: &a [*a]\n",
		gatewayHead + "  <<: &a {<<: *a}\n  listeners: *a\n",
	} {
		_, err := loadText(t, text)
		if err == nil {
			t.Fatalf("no error for %q", text)
		}
		if n := strings.Count(err.Error(), message); n > 1 {
			t.Errorf("told %d times: %v", n, err)
		}
	}
}

// TestAliasedNodesAreBounded expands aliases where any value is allowed: the
// number of nodes is the only bound there.
func TestAliasedNodesAreBounded(t *testing.T) {
	tests := map[string]struct {
		levels int // each holds the one before it ten times
		want   string
	}{
		"few": {levels: 3},
		"too many": {
			levels: 6,
			want:   "m.yaml:9: Gateway default/web: metadata.managedFields[0].fieldsV1.a5[3][6][2][6]: aliases repeat too much; write the values out",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: web\n  managedFields:\n  - operation: Apply\n    fieldsV1:\n      a0: &a0 [x]\n"
			for i := range test.levels {
				n := strconv.Itoa(i)
				text += "      a" + strconv.Itoa(i+1) + ": &a" + strconv.Itoa(i+1) + " [" + strings.TrimSuffix(strings.Repeat("*a"+n+", ", 10), ", ") + "]\n"
			}
			// What follows is good, and must not be blamed.
			_, err := loadText(t, text+"  generation: 3\nspec:\n  gatewayClassName: c\n"+oneListener)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzDocument(f *testing.F) {
	for c := range split([]byte(everything)) {
		f.Add(c.text)
	}
	for _, seed := range []string{gatewayHead + oneListener, "a: [", "- &a [*a]", "<<: *x", "? {a: b}\n: c", "kind: Gateway\nkind: Gateway", "--- !!binary x", "kind: List\napiVersion: v1\nitems: [{kind: List}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := bytes.Count(text, []byte("\n")) + 1
		for c := range split(text) {
			doc := readDocument(c.text)
			for _, p := range doc.problems {
				if p.Line < 1 || p.Line+c.offset > lines+1 || p.Message == "" {
					t.Errorf("problem at %d of %d lines: %v", p.Line, lines, p)
				}
			}
			for _, e := range doc.entries {
				if e.object.GetName() == "" || e.object.GetGeneration() == 0 {
					t.Errorf("object without defaults: %v", e.key)
				}
			}
		}
	})
}

func TestSplit(t *testing.T) {
	const file = "\ufeff# head\n--- # one\na: |\n  text\n   ---\n...\n%YAML 1.1\n---\nb: 1\n---\n---\r\n# nothing\r\n--- {c: 1}\n"
	var got []string
	for c := range split([]byte(file)) {
		got = append(got, strings.Repeat("+", c.offset)+string(c.text))
	}
	want := []string{"+--- # one\na: |\n  text\n   ---\n", "+++++++---\nb: 1\n", "++++++++++++--- {c: 1}\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExamplesAreGood(t *testing.T) {
	for _, routes := range []string{"tcp-routing.yaml", "tcp-routing-by-port.yaml"} {
		objects, err := Load([]string{"../examples/" + routes, "../examples/tcp-routing-backends.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(objects.Snapshot.TCPRoutes); n != 2 {
			t.Errorf("%s: %d routes", routes, n)
		}
	}
}

// BenchmarkParse reads 10 000 listeners with a route, a Service and 10 endpoints
// each from one file; reparse is an edit of one of its documents.
func BenchmarkParse(b *testing.B) {
	const listeners = 10_000
	text := manyListeners(listeners)
	b.Run("listeners=10000", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			f := &manifestFile{name: "m.yaml"}
			f.load(text)
			if len(f.problems) > 0 {
				b.Fatal(f.problems[0])
			}
		}
	})
	b.Run("listeners=10000/edit", func(b *testing.B) {
		f := &manifestFile{name: "m.yaml"}
		f.load(text)
		edits := [2][]byte{text, bytes.Replace(text, []byte("10.0.0.1,"), []byte("10.9.9.9,"), 1)}
		i := 0
		for b.Loop() {
			i++
			f.load(edits[i%2])
		}
	})
}

func manyListeners(n int) []byte {
	var b strings.Builder
	for i := range n {
		gateway := i / 64
		if i%64 == 0 {
			b.WriteString("---\n" + strings.Replace(gatewayHead, "web", "g"+strconv.Itoa(gateway), 1) + "  listeners:\n")
		}
		b.WriteString("  - {name: l" + strconv.Itoa(i) + ", protocol: TCP, port: " + strconv.Itoa(1000+i%64) + "}\n")
	}
	for i := range n {
		name := "s" + strconv.Itoa(i)
		b.WriteString("---\n" + strings.Replace(routeHead, "{name: r}", "{name: r"+strconv.Itoa(i)+"}", 1) +
			"  parentRefs:\n  - {name: g" + strconv.Itoa(i/64) + ", sectionName: l" + strconv.Itoa(i) + "}\n  rules:\n  - backendRefs:\n    - name: " + name + "\n      port: 80\n")
		b.WriteString("---\n" + strings.Replace(serviceHead, "{name: s}", "{name: "+name+"}", 1) + "  ports:\n  - port: 80\n")
		addresses := make([]string, 0, 10)
		for e := range 10 {
			addresses = append(addresses, "10."+strconv.Itoa(e)+"."+strconv.Itoa(i/250)+"."+strconv.Itoa(i%250))
		}
		b.WriteString("---\n" + sliceYAML(name+"-1", name, addresses...))
	}
	return []byte(b.String())
}
