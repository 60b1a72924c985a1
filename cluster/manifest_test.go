package cluster

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// scanner reads manifests step by step, without a watch.
type scanner struct {
	*Manifests
	store *Store
	names []string // of the Gateways in the store
}

func newScanner(t *testing.T, paths ...string) *scanner {
	t.Helper()
	store := NewStore()
	config := DefaultManifestsConfig()
	config.Paths, config.Clock = paths, clocktesting.NewFakeClock(time.Now())
	return &scanner{Manifests: newManifests(config, store), store: store}
}

// step scans once and returns what was told, one line per problem.
func (s *scanner) step(t *testing.T) []string {
	t.Helper()
	out := s.scan(true)
	if out.err != nil {
		t.Fatal(out.err)
	}
	if u := s.store.Next(); u.Snapshot != nil {
		s.names = nil
		for k := range u.Snapshot.Gateways {
			s.names = append(s.names, k.Name)
		}
		slices.Sort(s.names)
	}
	var told []string
	for _, r := range out.reports {
		for _, p := range r.Problems {
			told = append(told, p.Error())
		}
		if r.Recovered {
			told = append(told, r.File+" recovered")
		}
		if r.Removed {
			told = append(told, fmt.Sprintf("%s removed: %d", r.File, r.Objects))
		}
		if r.TakenOver {
			told = append(told, fmt.Sprintf("%s taken over: %d", r.File, r.Objects))
		}
		if r.PassedOver != "" {
			told = append(told, r.File+" has "+r.PassedOver)
		}
	}
	return told
}

func (s *scanner) want(t *testing.T, gateways string, told ...string) {
	t.Helper()
	got := s.step(t)
	if diff := cmp.Diff(told, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if names := strings.Join(s.names, " "); names != gateways {
		t.Errorf("gateways %q, want %q", names, gateways)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

const emptyPort = "m/a.yaml:10: Gateway default/a: spec.listeners[0].port: Invalid value: 0: must be 1 to 65535"

func TestManifestsBrokenEditKeepsLastGood(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	write(t, "m/b.yaml", gatewayYAML("b", 81)+"---\n"+gatewayYAML("b2", 82))
	s := newScanner(t, "m")
	s.want(t, "a b b2")
	write(t, "m/a.yaml", gatewayYAML("a", 0)+"---\n"+gatewayYAML("new", 80))
	write(t, "m/b.yaml", gatewayYAML("b", 81))
	s.want(t, "a b", emptyPort, "m/b.yaml taken over: 1")
	s.want(t, "a b") // told once
	write(t, "m/a.yaml", gatewayYAML("a", 80)+"---\n"+gatewayYAML("new", 80))
	s.want(t, "a b new", "m/a.yaml recovered", "m/a.yaml taken over: 2")
}

func TestManifestsNeverGood(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 0))
	write(t, "m/b.yaml", gatewayYAML("b", 81))
	s := newScanner(t, "m")
	s.want(t, "b", emptyPort)
	if !s.store.Next().Partial {
		t.Error("objects are missing and nobody is told")
	}
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	s.want(t, "a b", "m/a.yaml recovered", "m/a.yaml taken over: 1")
	if s.store.Next().Partial {
		t.Error("every file was good once, nothing is missing")
	}
	write(t, "m/a.yaml", gatewayYAML("a", 0))
	s.want(t, "a b", emptyPort)
	if s.store.Next().Partial {
		t.Error("the last good content is in use, nothing is missing")
	}
}

func TestManifestsEmptyFileIsABrokenEdit(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	write(t, "m/none.yaml", "# to come\n")
	s := newScanner(t, "m")
	s.want(t, "a")
	for _, content := range []string{"", "\n  \n", "# nothing\n---\n"} {
		write(t, "m/a.yaml", content)
		s.want(t, "a", "m/a.yaml: is empty; delete the file to remove its objects")
		write(t, "m/a.yaml", gatewayYAML("a", 80))
		s.want(t, "a", "m/a.yaml recovered")
	}
}

func TestManifestsRemovedFile(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	write(t, "m/b.yaml", gatewayYAML("b", 81))
	s := newScanner(t, "m")
	s.want(t, "a b")
	remove(t, "m/a.yaml")
	s.want(t, "a b") // an editor may be about to write it anew
	s.want(t, "a b")
	s.clock.Sleep(DefaultManifestsConfig().Confirm) // steps the fake clock
	s.want(t, "b", "m/a.yaml removed: 1")
	write(t, "m/a.yaml", "") // a new file, with nothing to lose
	s.want(t, "b")
}

func TestManifestsReplacedFile(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	s := newScanner(t, "m")
	s.want(t, "a")
	remove(t, "m/a.yaml")
	s.want(t, "a")
	write(t, "m/a.yaml", gatewayYAML("c", 80))
	s.want(t, "c", "m/a.yaml taken over: 1")
}

func TestManifestsTakenOver(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80)+"---\n"+gatewayYAML("b", 80))
	s := newScanner(t, "m")
	s.want(t, "a b") // the first reading is no edit
	write(t, "m/a.yaml", "# a comment\n"+gatewayYAML("b", 80)+"# another\n---\n"+gatewayYAML("a", 80))
	s.want(t, "a b") // nothing changed
	write(t, "m/a.yaml", gatewayYAML("a", 81)+"---\n"+gatewayYAML("b", 80))
	s.want(t, "a b", "m/a.yaml taken over: 2")
	write(t, "m/a.yaml", gatewayYAML("a", 81))
	write(t, "m/new.yaml", gatewayYAML("c", 80))
	s.want(t, "a c", "m/a.yaml taken over: 1", "m/new.yaml taken over: 1")
	s.want(t, "a c")
}

// TestManifestsDirectoryGone keeps what a directory held while it is not there.
func TestManifestsDirectoryGone(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	write(t, "m/b.yaml", gatewayYAML("b", 80))
	write(t, "other/c.yaml", gatewayYAML("c", 80))
	write(t, "single.yaml", gatewayYAML("single", 80))
	s := newScanner(t, "m", "other", "single.yaml")
	confirm := func() { s.clock.Sleep(DefaultManifestsConfig().Confirm) } // steps the fake clock
	s.want(t, "a b c single")
	remove(t, "m/a.yaml") // as rm -r begins; its time stops with the directory
	s.want(t, "a b c single")
	if err := os.Rename("m", "old"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "a b c single", "m: the directory is gone; bring it back, empty if its objects are to go")
	remove(t, "other/c.yaml") // elsewhere removal goes on
	remove(t, "single.yaml")
	s.want(t, "a b c single") // told once
	confirm()
	s.want(t, "a b", "other/c.yaml removed: 1", "single.yaml removed: 1")
	confirm()
	s.want(t, "a b")
	if s.store.Next().Partial {
		t.Error("the last good content is in use, nothing is missing")
	}
	write(t, "m/b.yaml", gatewayYAML("b2", 80))
	s.want(t, "a b2", "m/b.yaml taken over: 1", "m recovered") // a may be about to be written
	confirm()
	s.want(t, "b2", "m/a.yaml removed: 1")
}

// TestManifestsIrregular wants what is no regular file neither read,
// which could wait forever, nor to cost the objects that were there before.
func TestManifestsIrregular(t *testing.T) {
	t.Chdir(t.TempDir())
	pipe := func(name string) {
		t.Helper()
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pipe("pipe")
	socket, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	if err := os.Symlink("/dev/zero", "link"); err != nil {
		t.Fatal(err)
	}
	for path, what := range map[string]string{"pipe": "a pipe", "socket": "a socket", "link": "a device"} {
		want := "read manifests: " + path + " is " + what + ", which is not read; write the objects to a regular file and name that"
		if _, err := Load([]string{path}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := readManifest(path); path != "socket" && (err == nil || !strings.HasPrefix(err.Error(), "is "+what)) {
			t.Errorf("%s, listed as a file: %v", path, err)
		}
	}

	write(t, "m/a.yaml", gatewayYAML("a", 80))
	pipe("m/pipe.yaml")
	write(t, "b.yaml", gatewayYAML("b", 80))
	s := newScanner(t, "m", "b.yaml")
	s.want(t, "a b")
	remove(t, "b.yaml")
	pipe("b.yaml")
	s.want(t, "a b", "b.yaml: is a pipe, which is not read; write the objects to a regular file and name that")
	s.clock.Sleep(DefaultManifestsConfig().Confirm)
	s.want(t, "a b")
}

func TestLogReport(t *testing.T) {
	tests := map[string]struct {
		report fileReport
		want   string
	}{
		"removed":    {fileReport{File: "f", Objects: 2, Removed: true}, `"Manifest removed, its objects go" file="f" objects=2`},
		"taken over": {fileReport{File: "f", Objects: 2, TakenOver: true}, `"Manifest taken over" file="f" objects=2`},
		"recovered":  {fileReport{File: "f", Objects: 2, Recovered: true}, `"Manifest is good again" file="f" objects=2`},
		"never good": {
			fileReport{File: "f", Problems: Problems{{File: "f", Message: "m"}}},
			`"Manifest is broken, nothing of it is used" err="f: m" file="f"`,
		},
		"kept": {
			fileReport{File: "f", Objects: 2, Problems: Problems{{File: "f", Message: "m"}}},
			`"Manifest is broken, its last good content stays in use" err="f: m" file="f" objects=2`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
			logReport(klog.NewContext(t.Context(), logger), test.report)
			got := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
			if strings.Count(got, "Manifest") != 1 || !strings.Contains(strings.ReplaceAll(got, `"`, ""), strings.ReplaceAll(test.want, `"`, "")) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestManifestsTooLarge(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80)+"---\napiVersion: v1\nkind: Secret\n")
	s := newScanner(t, "m")
	s.want(t, "a", "m/a.yaml has Secret")
	if err := os.Truncate("m/a.yaml", maxFileSize+1); err != nil { // a hole: no disk is filled
		t.Fatal(err)
	}
	s.want(t, "a", "m/a.yaml: is larger than 256 MiB; split it into several files")
	s.want(t, "a")
}

// TestManifestsRacyWrite edits a file so that its signature stays the same.
func TestManifestsRacyWrite(t *testing.T) {
	t.Chdir(t.TempDir())
	written := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	edit := func(port int) {
		t.Helper()
		write(t, "m/a.yaml", gatewayYAML("a", port))
		if err := os.Chtimes("m/a.yaml", written, written); err != nil {
			t.Fatal(err)
		}
	}
	edit(80)
	s := newScanner(t, "m")
	fake := clocktesting.NewFakeClock(written)
	s.clock = fake
	s.want(t, "a")
	reads := func(all bool, port gatewayv1.PortNumber) {
		t.Helper()
		s.scan(all)
		u := s.store.Next()
		if got := u.Snapshot != nil && u.Snapshot.Gateways[key("a")].Spec.Listeners[0].Port == port; got != (port != 0) {
			t.Errorf("%s after the first write, all %t: %v, want port %d", fake.Since(written), all, u.Snapshot, port)
		}
	}
	edit(81)
	fake.Step(time.Second)
	reads(false, 81) // the time stamps are too young to tell
	edit(82)
	fake.Step(time.Second)
	reads(false, 0) // this is why events and the start read everything
	reads(true, 82)
}

func TestManifestsDuplicates(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	write(t, "m/b.yaml", gatewayYAML("b", 81))
	s := newScanner(t, "m")
	s.want(t, "a b")
	// a takes what b has: a is the broken edit, although it comes first.
	write(t, "m/a.yaml", gatewayYAML("a", 80)+"---\n"+gatewayYAML("b", 82)+"---\n"+gatewayYAML("c", 83))
	s.want(t, "a b", "m/a.yaml:12: Gateway default/b: is also in m/b.yaml:1; remove or rename one of them")
	// b lets it go: a is good, without having been touched.
	write(t, "m/b.yaml", gatewayYAML("b2", 81))
	s.want(t, "a b b2 c", "m/a.yaml recovered", "m/a.yaml taken over: 3", "m/b.yaml taken over: 1")
	// Both at once: the first in order has it.
	write(t, "m/a.yaml", gatewayYAML("x", 80))
	write(t, "m/b.yaml", gatewayYAML("x", 81))
	s.want(t, "b2 x", "m/a.yaml taken over: 1", "m/b.yaml:1: Gateway default/x: is also in m/a.yaml:1; remove or rename one of them")
}

func TestManifestsPassOver(t *testing.T) {
	t.Chdir(t.TempDir())
	other := "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {anything: [1]}\n---\napiVersion: v1\nkind: ConfigMap\n"
	write(t, "m/a.yaml", gatewayYAML("a", 80)+other+other)
	s := newScanner(t, "m")
	s.want(t, "a", "m/a.yaml has ConfigMap, Deployment")
	s.want(t, "a")
}

func TestManifestsDirectories(t *testing.T) {
	t.Chdir(t.TempDir())
	// As a mounted ConfigMap is laid out.
	write(t, "m/..v1/a.yaml", gatewayYAML("a", 80))
	for link, target := range map[string]string{"m/..data": "..v1", "m/a.yaml": "..data/a.yaml"} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "m/.a.yaml.swp", "junk: [")
	write(t, "m/.hidden.yaml", "junk: [")
	write(t, "m/readme.md", "junk: [")
	write(t, "m/sub/b.yaml", gatewayYAML("sub", 80))
	write(t, "m/c.json", `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}`)
	write(t, "m/d.yml", gatewayYAML("d", 80))
	write(t, "single", gatewayYAML("single", 80))
	s := newScanner(t, "m", "single", "m/d.yml", "./m")
	s.want(t, "a d single")

	write(t, "m/..v2/a.yaml", gatewayYAML("a2", 80))
	if err := os.Symlink("..v2", "m/..new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("m/..new", "m/..data"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "a2 d single", "m/a.yaml taken over: 1")
}

func TestManifestsUnreadableDirectoryKeepsAll(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	s := newScanner(t, "m")
	s.want(t, "a")
	// A loop of links cannot be looked at, for root neither.
	if err := os.Rename("m", "old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("m", "m"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "a", "m: cannot be read: too many levels of symbolic links")
	s.want(t, "a")
	s.clock.Sleep(DefaultManifestsConfig().Confirm)
	s.want(t, "a")
}

func TestManifestsDefaults(t *testing.T) {
	objects, err := loadText(t, gatewayYAML("a", 80)+"---\n"+routeHead+oneParent+
		"  rules:\n  - backendRefs: [{name: s, port: 1}]\n---\n"+serviceHead+"  ports: [{port: 7}]\n---\n"+
		strings.Replace(gatewayHead, "{name: web}", "{name: b, namespace: edge, generation: 4, creationTimestamp: 2024-01-02T03:04:05Z}", 1)+oneListener+
		"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: edge, labels: {team: x}}\n---\n"+sliceYAML("s-1", "s", "10.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	s := objects.Snapshot
	a := s.Gateways[key("a")]
	if a.Generation != 1 || !a.CreationTimestamp.IsZero() {
		t.Errorf("metadata %+v", a.ObjectMeta)
	}
	wantRoutes := &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: ptr.To(gatewayv1.NamespacesFromSame)}}
	if diff := cmp.Diff(wantRoutes, a.Spec.Listeners[0].AllowedRoutes); diff != "" {
		t.Errorf("allowedRoutes (-want +got):\n%s", diff)
	}
	ref := s.TCPRoutes[key("r")].Spec.Rules[0].BackendRefs[0]
	if *ref.Weight != 1 || *ref.Kind != "Service" || *ref.Group != "" {
		t.Errorf("backendRef %+v", ref)
	}
	port := s.Services[key("s")].Spec.Ports[0]
	if port.Protocol != corev1.ProtocolTCP || port.TargetPort.IntVal != 7 {
		t.Errorf("Service port %+v", port)
	}
	wantSlice := slice("s-1", "s", "10.0.0.1")
	wantSlice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](6000), Protocol: ptr.To(corev1.ProtocolTCP)}}
	if !objects.Slices[key("s")][0].Equal(topology.NewEndpointSlice(wantSlice)) {
		t.Errorf("slice %+v", objects.Slices[key("s")][0])
	}
	wantLabels := map[string]map[string]string{
		"default": {"kubernetes.io/metadata.name": "default"},
		"edge":    {"kubernetes.io/metadata.name": "edge", "team": "x"},
	}
	labels := map[string]map[string]string{}
	for name, n := range s.Namespaces {
		labels[name] = n.Labels
	}
	if diff := cmp.Diff(wantLabels, labels); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	for k, g := range s.Gateways {
		if k.Name == "b" && (g.Generation != 4 || !g.CreationTimestamp.Equal(ptr.To(metav1.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)))) {
			t.Errorf("metadata %+v", g.ObjectMeta)
		}
	}
}

func TestManifestsGenerationFollowsEdits(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newScanner(t, "a.yaml")
	for i, step := range []struct {
		port       int
		labels     string
		generation int64
	}{{80, "", 1}, {81, "", 2}, {81, "\n  labels: {a: b}", 2}, {82, "", 3}} {
		write(t, "a.yaml", strings.Replace(gatewayYAML("a", step.port), "name: a", "name: a"+step.labels, 1))
		s.scan(true)
		if u := s.store.Next(); u.Snapshot == nil || u.Snapshot.Gateways[key("a")].Generation != step.generation {
			t.Errorf("step %d: %+v", i, u.Snapshot)
		}
	}
}

func TestManifestsEditOfSlicesYieldsNoSnapshot(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "a.yaml", gatewayYAML("a", 80)+"---\n"+sliceYAML("s-1", "s", "10.0.0.1"))
	s := newScanner(t, "a.yaml")
	s.want(t, "a")
	write(t, "a.yaml", "# moved\n"+gatewayYAML("a", 80)+"---\n"+sliceYAML("s-1", "s", "10.0.0.1", "10.0.0.2"))
	s.scan(true)
	if u := s.store.Next(); u.Snapshot != nil || len(u.Slices) != 1 {
		t.Errorf("update %+v", u)
	}
}

func TestMissingPath(t *testing.T) {
	t.Chdir(t.TempDir())
	const want = "read manifests nowhere: no such file or directory"
	if _, err := Load([]string{"nowhere"}); err == nil || err.Error() != want {
		t.Errorf("Load: %v", err)
	}
	config := DefaultManifestsConfig()
	config.Paths = []string{"nowhere"}
	if _, err := NewManifests(t.Context(), config, NewStore()); err == nil || err.Error() != want {
		t.Errorf("NewManifests: %v", err)
	}
}
