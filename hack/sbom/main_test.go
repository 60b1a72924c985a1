package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test's own binary stands for those of the image.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "packages")
	if err := os.WriteFile(list, []byte("iptables\t1.8.9-2+deb12u1\tarm64\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := func() []byte {
		var out bytes.Buffer
		if err := run(&out, "v1", time.Unix(86400, 0), list, []string{self, self}); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := made()
	if !bytes.Equal(first, made()) {
		t.Error("two runs differ")
	}
	var doc document
	if err := json.Unmarshal(first, &doc); err != nil {
		t.Fatal(err)
	}
	if got, want := doc.Creation.Created, "1970-01-02T00:00:00Z"; got != want {
		t.Errorf("created %s, want %s", got, want)
	}
	var purls []string
	ids := map[string]bool{}
	for _, p := range doc.Packages {
		ids[p.ID] = true
		for _, r := range p.Refs {
			purls = append(purls, r.Locator)
		}
	}
	if len(ids) != len(doc.Packages) || len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("%d packages, %d identifiers, %d relationships: each package has one of each", len(doc.Packages), len(ids), len(doc.Relationships))
	}
	all := strings.Join(purls, "\n")
	for _, want := range []string{
		"pkg:deb/debian/iptables@1.8.9-2%2Bdeb12u1?arch=arm64",
		"pkg:golang/github.com/portway-dev/portway@v1",
		"pkg:golang/std@1.",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s among:\n%s", want, all)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	list := filepath.Join(t.TempDir(), "packages")
	if err := os.WriteFile(list, []byte("iptables 1.8.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, binaries := range map[string][]string{
		"none":          nil,
		"no Go program": {list},
		"broken list":   {self},
	} {
		if err := run(&bytes.Buffer{}, "v1", time.Unix(0, 0), list, binaries); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
