package chart

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// TestComponents: a component of deploy makes of deploy/base what the chart makes with the
// value that stands for it.
func TestComponents(t *testing.T) {
	base := []string{"--set", "gatewayClass.create=false", "--no-hooks"}
	for component, values := range map[string]string{
		"iptables-legacy": "agent.iptablesLegacy=true",
		"layer2":          "layer2.enabled=true",
	} {
		t.Run(component, func(t *testing.T) {
			built := decode(t, kustomize(t, component, ""))
			rendered := decode(t, mustRender(t, append(slices.Clone(base), "--set", values)...))
			got, want := agentsOf(t, built), agentsOf(t, rendered)
			// A flag may be in command or args.
			for _, agents := range []*appsv1.DaemonSet{got, want} {
				c := &agents.Spec.Template.Spec.Containers[0]
				c.Command, c.Args = append(c.Command, c.Args...), nil
				for i := range c.Ports {
					if c.Ports[i].Protocol == "" {
						c.Ports[i].Protocol = corev1.ProtocolTCP
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the agents: -chart +component:\n%s", diff)
			}
			roles := [2]*rbacv1.ClusterRole{only[*rbacv1.ClusterRole](t, rendered, "portway-agent"), only[*rbacv1.ClusterRole](t, built, "portway-agent")}
			if diff := cmp.Diff(granted(roles[0].Rules), granted(roles[1].Rules)); diff != "" {
				t.Errorf("rights: -chart +component:\n%s", diff)
			}
			if len(built) != len(rendered)+1 { // the namespace is not the chart's
				t.Errorf("%d objects of the component, %d of the chart", len(built), len(rendered))
			}
		})
	}
}

// granted is what rules grant, in order.
func granted(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					all = append(all, verb+" "+group+"/"+resource)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// TestNamespaceLevels: the namespace enforces what the agents need, and says nothing against it.
func TestNamespaceLevels(t *testing.T) {
	levels := only[*corev1.Namespace](t, decode(t, kustomize(t, "", "")), "portway-system").Labels
	for _, mode := range []string{"enforce", "warn", "audit"} {
		if level := levels["pod-security.kubernetes.io/"+mode]; level != "privileged" {
			t.Errorf("%s: level %q", mode, level)
		}
	}
}

// TestOtherNamespace: a kustomization in another namespace is deploy/base there: what the chart
// renders for a release in it, with policies that match and subjects that exist.
func TestOtherNamespace(t *testing.T) {
	byName := func(objects []runtime.Object) map[string]runtime.Object {
		named := map[string]runtime.Object{}
		for _, o := range objects {
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			named[o.GetObjectKind().GroupVersionKind().Kind+" "+m.GetNamespace()+"/"+m.GetName()] = o
		}
		return named
	}
	built := byName(decode(t, kustomize(t, "", "infra")))
	if built["Namespace /infra"] == nil {
		t.Error("the namespace has not the name")
	}
	delete(built, "Namespace /infra")
	rendered := byName(decode(t, mustRender(t, "--namespace", "infra", "--set", "gatewayClass.create=false", "--no-hooks")))
	// Those of the chart have an annotation for helm.
	for _, objects := range []map[string]runtime.Object{built, rendered} {
		maps.DeleteFunc(objects, func(name string, _ runtime.Object) bool { return strings.HasPrefix(name, "CustomResourceDefinition ") })
	}
	if diff := cmp.Diff(rendered, built); diff != "" {
		t.Errorf("-chart +kustomization:\n%s", diff)
	}
}

// kustomize builds deploy/base with a component and in a namespace, if they are given.
func kustomize(t *testing.T, component, namespace string) string {
	t.Helper()
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := filesys.MakeFsOnDisk()
	relative := func(to string) string {
		path, err := filepath.Rel(dir, filepath.Join(deploy, to))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := "resources: [" + relative("base") + "]\n"
	if component != "" {
		text += "components: [" + relative(component) + "]\n"
	}
	if namespace != "" {
		text += "namespace: " + namespace + "\n"
	}
	if err := files.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text)); err != nil {
		t.Fatal(err)
	}
	out, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, dir)
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := out.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(yaml)
}
