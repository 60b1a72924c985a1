package chart

import (
	"bytes"
	"os/exec"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const chartDir = "../../deploy/chart"

// helm is the pinned one; the go command builds it once and keeps it.
var helm = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "helm").Output()
	return strings.TrimSpace(string(out)), err
})

// render returns what the chart renders with flags of helm template.
func render(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	program, err := helm()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	args := append([]string{"template", "portway", chartDir, "--namespace", "portway-system", "--kube-version", "1.32.0"}, flags...)
	cmd := exec.Command(program, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return problems.String(), err
	}
	return out.String(), nil
}

func mustRender(t *testing.T, flags ...string) string {
	t.Helper()
	out, err := render(t, flags...)
	if err != nil {
		t.Fatalf("%v: %v: %s", flags, err, out)
	}
	return out
}

// decode reads manifests as strictly as an API server that is asked to, and as it would:
// an unknown field, or one that is there twice, is an error.
func decode(t *testing.T, manifests string) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, gatewayv1.Install} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, types, types, json.SerializerOptions{Yaml: true, Strict: true})
	var objects []runtime.Object
	for document := range strings.SplitSeq("\n"+manifests, "\n---") {
		if !strings.Contains(document, "\nkind: ") {
			continue
		}
		object, _, err := strict.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Errorf("%v in:\n%s", err, document)
			continue
		}
		objects = append(objects, object)
	}
	return objects
}

// only returns the object of a type that has a name.
func only[T interface {
	runtime.Object
	GetName() string
}](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	for _, o := range objects {
		if found, ok := o.(T); ok && found.GetName() == name {
			return found
		}
	}
	var none T
	t.Fatalf("no %T %s", none, name)
	return none
}

func agentsOf(t *testing.T, objects []runtime.Object) *appsv1.DaemonSet {
	t.Helper()
	return only[*appsv1.DaemonSet](t, objects, "portway-agent")
}
