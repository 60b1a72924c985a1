package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHypervisor(t *testing.T) {
	const guest = "flags : fpu hypervisor sse"
	dmi := map[string]string{"class/dmi/id/sys_vendor": "QEMU", "class/dmi/id/product_name": "Standard PC"}
	for _, test := range []struct {
		files         map[string]string
		cpuinfo, want string
	}{
		{nil, "flags : fpu sse", "none"},
		{dmi, "flags : fpu sse", "none"},
		{nil, guest, "unnamed"},
		{dmi, guest, "QEMU Standard PC"},
		{map[string]string{"hypervisor/type": "xen"}, guest, "xen"},
	} {
		if got := hypervisor(tree(t, test.files), test.cpuinfo); got != test.want {
			t.Errorf("%v, %q: %q, want %q", test.files, test.cpuinfo, got, test.want)
		}
	}
}

func TestMachine(t *testing.T) {
	got := map[string]any{
		"distribution": distribution("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"),
		"memory":       memory("MemFree: 1 kB\nMemTotal:       24684084 kB\n"),
		"mitigations": mitigations(tree(t, map[string]string{
			"a": "Mitigation: PTI", "b": "Not affected", "c": "Vulnerable", "d": "Mitigation: IBRS", "e": "KVM: Vulnerable",
		})),
		"none":  mitigations(tree(t, map[string]string{"a": "Not affected"})),
		"no":    mitigations("/nonexistent"),
		"files": strings.Count(openFiles(), "hard"),
	}
	want := map[string]any{
		"distribution": "Debian 12", "memory": int64(24684084 << 10), "mitigations": "mitigated: a, d; open: c, e",
		"none": "mitigated: none; open: none", "no": "", "files": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
}

func TestJiffies(t *testing.T) {
	got, err := parseJiffies("cpu  1 2 3 4 5 6 7 8 100 200\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if want := (jiffies{Steal: 8, All: 36}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, stat := range []string{"", "cpu 1 2 3\n", "cpu a 2 3 4 5 6 7 8 9 10\n"} {
		if _, err := parseJiffies(stat); err == nil {
			t.Errorf("%q is read", stat)
		}
	}
}

// TestSteal: what the hypervisor gave to others counts from the begin to the end.
func TestSteal(t *testing.T) {
	b, err := here()
	if err != nil {
		t.Fatal(err)
	}
	b.Unix -= 90
	b.Jiffies = jiffies{} // since the machine was started
	e, err := b.end()
	if err != nil {
		t.Fatal(err)
	}
	if e.Seconds < 90 || e.Steal == nil || *e.Steal < 0 || *e.Steal >= 1 || e.LoadEnd == "" {
		t.Errorf("environment at the end: %+v", e)
	}
}

// TestOneProcessor: the page warns of a machine that has only one.
func TestOneProcessor(t *testing.T) {
	for cores, want := range map[int]bool{1: true, 2: false} {
		var page strings.Builder
		(&run{Environment: environment{Cores: cores}}).environment(&page, "make bench")
		if got := strings.Contains(page.String(), "One processor only"); got != want {
			t.Errorf("of %d processors the page warns: %v, want %v", cores, got, want)
		}
	}
}
