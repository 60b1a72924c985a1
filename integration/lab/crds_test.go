package lab_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/integration/lab"
)

// TestOldest: the edited CRDs serve the versions of old clusters and no others.
func TestOldest(t *testing.T) {
	dir, err := lab.CRDDir(t.Context(), lab.CRDsExperimental)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"tcproutes", "udproutes", "tlsroutes", "referencegrants", "gateways", "listenersets", "vap_safeupgrades"} {
		manifest, err := os.ReadFile(filepath.Join(dir, "gateway.networking.k8s.io_"+name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		edited, err := lab.Oldest(manifest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Name            string
					Served, Storage bool
				}
			}
		}
		if err := yaml.Unmarshal(edited, &crd); err != nil {
			t.Fatal(err)
		}
		for _, version := range crd.Spec.Versions {
			if version.Served {
				got[name] += version.Name + " "
			}
			if version.Storage {
				got[name] += "stored as " + version.Name + " "
			}
		}
	}
	want := map[string]string{
		"tcproutes": "v1alpha2 stored as v1alpha2 ", "udproutes": "v1alpha2 stored as v1alpha2 ", "tlsroutes": "v1alpha2 stored as v1alpha2 ",
		"referencegrants": "v1beta1 stored as v1beta1 ", "gateways": "v1 stored as v1 v1beta1 ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
