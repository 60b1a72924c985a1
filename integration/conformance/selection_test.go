package conformance

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/yaml"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/portway-dev/portway/integration/conformance/l4"
)

var update = flag.Bool("update", false, "write reports/README.md")

// claimed are the features of topology/class.go, which is in another module. A test
// against a cluster takes them from the GatewayClass.
var claimed = sets.New(
	features.SupportGateway, features.SupportGatewayAddressEmpty, features.SupportGatewayPort8080,
	features.SupportListenerSet, features.SupportReferenceGrant, features.SupportTCPRoute, features.SupportUDPRoute,
)

// selected are the tests of the suite for the features that we claim.
func selected() map[string]suite.ConformanceTest {
	chosen := map[string]suite.ConformanceTest{}
	for _, test := range tests.ConformanceTests {
		if claimed.HasAll(test.Features...) {
			chosen[test.ShortName] = test
		}
	}
	return chosen
}

func TestSkips(t *testing.T) {
	ours := selected()
	for _, test := range l4.Tests {
		ours[test.ShortName] = test
	}
	skipped := sets.New[string]()
	for _, s := range Skips {
		if _, ok := selected()[s.Test]; !ok {
			t.Errorf("%s is skipped but would not run", s.Test)
		}
		if s.Reason == "" || len(s.Instead) == 0 {
			t.Errorf("%s has no reason or nothing in its place", s.Test)
		}
		for _, name := range s.Instead {
			if _, ok := ours[name]; !ok {
				t.Errorf("%s: no test %s", s.Test, name)
			}
		}
		skipped.Insert(s.Test)
	}
	routes := map[features.FeatureName]int{}
	for name, test := range selected() {
		for _, route := range []features.FeatureName{features.SupportTCPRoute, features.SupportUDPRoute} {
			if !slices.Contains(test.Features, route) {
				continue
			}
			routes[route]++
			if skipped.Has(name) {
				t.Errorf("%s is a test of %s and skipped", name, route)
			}
		}
	}
	if tcp, udp := routes[features.SupportTCPRoute], routes[features.SupportUDPRoute]; tcp != 8 || udp != 9 {
		t.Errorf("the suite has %d TCPRoute and %d UDPRoute tests, not 8 and 9", tcp, udp)
	}
	if !slices.IsSortedFunc(Skips, func(a, b Skip) int { return strings.Compare(a.Test, b.Test) }) {
		t.Error("the skips are not in order")
	}
}

// TestOverlays: an overlay is used, has TCP and UDP listeners only, and on ports that
// no test with a manifest of the suite uses. So a Gateway of one test that is still
// being deleted never has a port of the next.
func TestOverlays(t *testing.T) {
	manifests, err := Manifests()
	if err != nil {
		t.Fatal(err)
	}
	overlaid := sets.New[string]()
	entries, err := fs.ReadDir(manifests.ours, "tests")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		overlaid.Insert(path.Join("tests", e.Name()))
	}
	used := sets.New[string]()
	theirs := sets.New[gatewayv1.PortNumber]()
	for _, test := range selected() {
		if slices.ContainsFunc(Skips, func(s Skip) bool { return s.Test == test.ShortName }) {
			continue
		}
		for _, file := range test.Manifests {
			used.Insert(file)
			if !overlaid.Has(file) {
				for _, l := range listeners(t, conformance.Manifests, file) {
					theirs.Insert(l.Port)
				}
			}
		}
	}
	for _, test := range l4.Tests {
		for _, file := range test.Manifests {
			overlaid.Insert(file)
			used.Insert(file)
		}
	}
	for _, file := range sets.List(overlaid) {
		if !used.Has(file) {
			t.Errorf("%s: no test of the suite that runs applies it", file)
		}
		for _, l := range listeners(t, manifests, file) {
			if l.Protocol == gatewayv1.TCPProtocolType && theirs.Has(l.Port) {
				t.Errorf("%s: listener %s has port %d, which the suite uses, too", file, l.Name, l.Port)
			}
		}
	}
}

// listeners are those of all Gateways and ListenerSets in a file.
func listeners(t *testing.T, manifests fs.FS, file string) []gatewayv1.Listener {
	t.Helper()
	data, err := fs.ReadFile(manifests, file)
	if err != nil {
		t.Fatal(err)
	}
	var all []gatewayv1.Listener
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var object struct {
			Kind string
			Spec struct{ Listeners []gatewayv1.Listener }
		}
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%s: %v", file, err)
		case object.Kind == "Gateway" || object.Kind == "ListenerSet":
			all = append(all, object.Spec.Listeners...)
		}
	}
}

func TestReadme(t *testing.T) {
	const file = "reports/README.md"
	var want strings.Builder
	want.WriteString(readmeHead)
	for _, s := range Skips {
		fmt.Fprintf(&want, "| %s | %s | %s |\n", s.Test, s.Reason, strings.Join(s.Instead, ", "))
	}
	want.WriteString("\nOur own tests (`TestL4` of the same binary; not counted in the report):\n\n| test | what it asserts |\n|---|---|\n")
	for _, test := range l4.Tests {
		fmt.Fprintf(&want, "| %s | %s |\n", test.ShortName, test.Description)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("%s is not what the code says; -update writes it", file)
	}
}

const readmeHead = `# Conformance reports

` + "`standard-default-report.yaml`" + ` is what the Gateway API's conformance suite says of this
project: profiles GATEWAY-TCP and GATEWAY-UDP, features as published in the status of
the GatewayClass, on the lab's Kubernetes (integration/lab) with three nodes.
` + "`make conformance`" + ` runs the suite and writes the report.

All TCPRoute and UDPRoute tests run and none is skipped. The core result is *partial*
because the suite's tests of Gateway and ListenerSet are tests of HTTP; those that
cannot be brought to TCP by another manifest are skipped:

| skipped | why | asserted for TCP and UDP by |
|---|---|---|
`
