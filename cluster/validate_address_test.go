package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOwnKindsAsTheAPI: files may hold what the API server takes of our own kinds and
// nothing else. integration/e2e TestSchemas holds a real one to the same list.
func TestOwnKindsAsTheAPI(t *testing.T) {
	for name, good := range map[string]bool{"accepted.yaml": true, "refused.yaml": false} {
		content, err := os.ReadFile(filepath.Join("../api/v1alpha1/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(content), "\n")
		for document := range strings.SplitSeq(text, "\n---\n") {
			read := readDocument([]byte(document))
			if good {
				if len(read.problems) > 0 || len(read.entries) != 1 {
					t.Errorf("%v in\n%s", read.problems, document)
				}
				continue
			}
			field, _, _ := strings.Cut(strings.TrimPrefix(document, "# "), "\n")
			named := slices.ContainsFunc(read.problems, func(p *Problem) bool { return p.Field == field && p.Line > 0 })
			if len(read.problems) == 0 || !named {
				t.Errorf("want a problem of %s: %v in\n%s", field, read.problems, document)
			}
		}
	}
}
