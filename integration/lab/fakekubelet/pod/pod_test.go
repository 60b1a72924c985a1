package pod

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWriteVolume(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		name    string
		files   map[string]string
		changed bool
	}{
		{"new", map[string]string{"color": "blue", "deep/size": "small"}, true},
		{"same", map[string]string{"color": "blue", "deep/size": "small"}, false},
		{"changed", map[string]string{"color": "red", "deep/size": "small"}, true},
		{"removed", map[string]string{"color": "red"}, true},
		{"added", map[string]string{"color": "red", "shape": "round"}, true},
		{"empty", nil, true},
	} {
		files := map[string]payload{}
		for name, content := range step.files {
			files[name] = payload{[]byte(content), 0o640}
		}
		changed, err := writeVolume(dir, files)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if changed != step.changed {
			t.Errorf("%s: changed is %t", step.name, changed)
		}
		if diff := cmp.Diff(step.files, visible(t, dir), cmp.Comparer(maps.Equal[map[string]string, map[string]string])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		old, err := filepath.Glob(filepath.Join(dir, "..volume-*"))
		if err != nil || len(old) != 1 {
			t.Errorf("%s: generations %v, %v", step.name, old, err)
		}
	}
}

// visible reads a volume as a container sees it.
func visible(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"[^.]*", "[^.]*/*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				continue
			}
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			relative, err := filepath.Rel(dir, name)
			if err != nil {
				t.Fatal(err)
			}
			found[relative] = string(content)
		}
	}
	return found
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "B": "two"}
	for in, want := range map[string]string{
		"":            "",
		"plain":       "plain",
		"$(A)-$(B)":   "1-two",
		"$$(A)":       "$(A)",
		"$(UNKNOWN)":  "$(UNKNOWN)",
		"$A $( $(A":   "$A $( $(A",
		"$(A)$(A)$$$": "11$$",
	} {
		if got := expand(in, env); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestBinary(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"agent", "special"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config, err := json.Marshal(imageConfig{BinDirs: []string{dir}, Images: map[string]string{
		"example.test:5000/x/mapped": filepath.Join(dir, "special"), "short": filepath.Join(dir, "special"),
		"example.test/unpacked": filepath.Join(dir, "files"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"agent":                               "agent",
		"example.test/portway/agent:v1":       "agent",
		"example.test:5000/agent":             "agent",
		"agent:v1@sha256:0123":                "agent",
		"example.test:5000/x/mapped:v2":       "special",
		"example.test/y/short":                "special",
		"example.test/unpacked:v1":            "files",
		"example.test/portway/nobody-has-it":  "",
		"example.test/portway/config.json:v1": "", // not executable
	} {
		got, err := Images(file).Find(image)
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Find(%q) = %q, %v, want %q", image, got, err, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	a := newAddresses([]netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd24:0:0:3::/64")})
	seen := map[netip.Addr]bool{}
	first := 0
	for range lastOffset - firstOffset + 1 {
		offset, addrs, err := a.take()
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = offset
			want := []netip.Addr{netip.MustParseAddr("10.244.3.2"), netip.MustParseAddr("fd24:0:0:3::2")}
			if diff := cmp.Diff(want, addrs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("first addresses (-want +got):\n%s", diff)
			}
		}
		for _, addr := range append(addrs, a.gateways()[1]) {
			if seen[addr] && addr != a.gateways()[1] {
				t.Errorf("%s is given out twice", addr)
			}
			seen[addr] = true
		}
	}
	if _, _, err := a.take(); err == nil {
		t.Error("there is one address too many")
	}
	a.give(first)
	if offset, _, err := a.take(); err != nil || offset != first {
		t.Errorf("take() = %d, %v after %d was given back", offset, err, first)
	}
}

// TestPhase: the phase of a pod follows from its containers and its policy.
func TestPhase(t *testing.T) {
	ended := func(code int32) *container {
		return &container{runs: 1, last: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	for _, c := range []struct {
		name       string
		policy     corev1.RestartPolicy
		init, main []*container
		want       corev1.PodPhase
	}{
		{"not started", corev1.RestartPolicyAlways, nil, []*container{{}}, corev1.PodPending},
		{"restarting", corev1.RestartPolicyAlways, nil, []*container{ended(1)}, corev1.PodRunning},
		{"one of two to be retried", corev1.RestartPolicyOnFailure, nil, []*container{ended(0), ended(1)}, corev1.PodRunning},
		{"all ended well", corev1.RestartPolicyNever, nil, []*container{ended(0), ended(0)}, corev1.PodSucceeded},
		{"one ended badly", corev1.RestartPolicyNever, nil, []*container{ended(0), ended(1)}, corev1.PodFailed},
		{"initializing", corev1.RestartPolicyAlways, []*container{{init: true}}, []*container{{}}, corev1.PodPending},
	} {
		for _, i := range c.init {
			i.init = true
		}
		w := &worker{inits: c.init, containers: c.main}
		if got := w.phase(c.policy); got != c.want {
			t.Errorf("%s: phase %s, want %s", c.name, got, c.want)
		}
	}
}

// TestStatusBeforeInitContainers: a pod that waits for its volumes has a status, of which its
// init containers, which nobody has started yet, say that they wait.
func TestStatusBeforeInitContainers(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "first"}}, Containers: []corev1.Container{{Name: "main"}}}}
	w := newWorker(&Host{Config: Config{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}, pod)
	done := make(chan corev1.PodStatus, 1)
	go func() { done <- w.status(pod) }()
	select {
	case s := <-done:
		for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
			if c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" {
				t.Errorf("container %s: %+v, want it to wait", c.Name, c.State)
			}
		}
		if s.Phase != corev1.PodPending {
			t.Errorf("phase %s", s.Phase)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no status: two locks are waited for in a circle")
	}
}

// TestConditionTime: the time of the last transition moves with the status only,
// even when the object in hand is older than what was reported.
func TestConditionTime(t *testing.T) {
	w := &worker{conditions: map[corev1.PodConditionType]corev1.PodCondition{}}
	var s corev1.PodStatus
	w.setCondition(&s, corev1.PodReady, true, "", "")
	early := metav1.Unix(1000, 0)
	c := w.conditions[corev1.PodReady]
	c.LastTransitionTime = early
	w.conditions[corev1.PodReady] = c

	var stale corev1.PodStatus
	w.setCondition(&stale, corev1.PodReady, true, "", "")
	if got := stale.Conditions[0].LastTransitionTime; !got.Equal(&early) {
		t.Errorf("same status: transition at %s, want %s", got, early)
	}
	w.setCondition(&stale, corev1.PodReady, false, "Because", "")
	if got := stale.Conditions[0].LastTransitionTime; got.Equal(&early) {
		t.Error("other status: transition time is unchanged")
	}
}
