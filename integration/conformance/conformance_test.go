package conformance

import (
	"cmp"
	"context"
	"flag"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/integration/conformance/l4"
)

const project = "https://github.com/portway-dev/portway"

var live = flag.Bool("live", false, "run against the cluster of $KUBECONFIG")

// TestConformance runs the suite and, if asked to by -report-output, writes its report.
func TestConformance(t *testing.T) {
	o := options(t)
	if file := o.ReportOutputPath; file != "" {
		t.Cleanup(func() { tidyReport(t, file) }) // runs after the suite has written it
	}
	conformance.RunConformanceWithOptions(t, o)
}

// TestL4 runs our own tests in a suite of their own: they count in no report.
func TestL4(t *testing.T) {
	o := options(t)
	o.ReportOutputPath = ""
	o.SkipTests = nil
	baseGone(t, o)
	s, err := suite.NewConformanceTestSuite(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Setup(t, l4.Tests)
	if err := s.Run(t, l4.Tests); err != nil {
		t.Fatal(err)
	}
}

// baseGone waits until nothing is left of the namespaces that a run before deleted.
func baseGone(t *testing.T, o suite.ConformanceOptions) {
	t.Helper()
	const limit = 2 * time.Minute
	err := wait.PollUntilContextTimeout(t.Context(), time.Second, limit, true, func(ctx context.Context) (bool, error) {
		for _, name := range []string{suite.InfrastructureNamespace, suite.AppBackendNamespace, suite.WebBackendNamespace} {
			namespace, err := o.Clientset.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err == nil && namespace.DeletionTimestamp != nil || client.IgnoreNotFound(err) != nil {
				return false, client.IgnoreNotFound(err)
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("the namespaces of the suite are still being deleted: %v", err)
	}
}

func options(t *testing.T) suite.ConformanceOptions {
	t.Helper()
	if !*live {
		t.Skip("-live runs it against the cluster of $KUBECONFIG")
	}
	o := conformance.DefaultOptions(t)
	manifests, err := Manifests()
	if err != nil {
		t.Fatal(err)
	}
	o.ManifestFS = []fs.FS{manifests}
	o.ConformanceProfiles = []suite.ConformanceProfileName{
		suite.GatewayTCPConformanceProfileName, suite.GatewayUDPConformanceProfileName,
	}
	for _, s := range Skips {
		o.SkipTests = append(o.SkipTests, s.Test)
	}
	o.Implementation = confv1.Implementation{
		Organization: "portway-dev", Project: "portway", URL: project,
		Version: cmp.Or(o.Implementation.Version, "unknown"), Contact: []string{project + "/issues"},
	}
	return o
}

// tidyReport brings what the suite takes from a map into order.
func tidyReport(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report confv1.ConformanceReport
	if err := yaml.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(report.ProfileReports, func(a, b confv1.ProfileReport) int { return cmp.Compare(a.Name, b.Name) })
	if data, err = yaml.Marshal(report); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
}
