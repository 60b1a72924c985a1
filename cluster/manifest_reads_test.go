package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReads(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", "")
	write(t, "m/sub/a.yaml", "")
	write(t, "far/away.yaml", "")
	write(t, "single", "")
	for link, target := range map[string]string{
		"link":             "m",
		"m/linked.yaml":    "../out/status.yaml", // does not exist yet
		"m/existing.yaml":  "../far/away.yaml",
		"m/.hidden.yaml":   "../out/hidden.yaml",
		"into.yaml":        "m/new.yaml",
		"loop":             "loop",
		"m/loop.yaml":      "loop.yaml",
		"far/to-file.yaml": "../single",
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link("m/a.yaml", "hard.yaml"); err != nil {
		t.Fatal(err)
	}
	absolute, err := filepath.Abs("m/status.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		path, file string
		want       bool
	}{
		"in the directory":                {"m", "m/status.yaml", true},
		"absolute":                        {"m", absolute, true},
		"directory through a link":        {"link", "m/status.yaml", true},
		"file through a link":             {"m", "link/status.yaml", true},
		"not cleaned":                     {"./m/sub/..", "m/status.yaml", true},
		"a link into the directory":       {"m", "into.yaml", true},
		"a link in the directory":         {"m", "out/status.yaml", true},
		"a link to an existing file":      {"m", "far/away.yaml", true},
		"a hard link":                     {"m", "hard.yaml", true},
		"the file itself":                 {"single", "single", true},
		"a link to the file itself":       {"single", "far/to-file.yaml", true},
		"the file itself, to come":        {"nowhere", "nowhere", true},
		"a directory to come":             {"d", "d/status.yaml", true},
		"another kind of file":            {"m", "m/status.txt", false},
		"a hidden file":                   {"m", "m/.status.yaml", false},
		"where a hidden link leads":       {"m", "out/hidden.yaml", false},
		"below the directory":             {"m", "m/sub/status.yaml", false},
		"beside the directory":            {"m", "status.yaml", false},
		"beside the file":                 {"single", "status.yaml", false},
		"a loop of links":                 {"loop", "status.yaml", false},
		"a name that begins with another": {"m", "m2/status.yaml", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Reads([]string{"other", test.path}, test.file); got != test.want {
				t.Errorf("Reads(%s, %s) = %t", test.path, test.file, got)
			}
		})
	}
}
