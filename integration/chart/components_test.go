package chart

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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
			built := decode(t, kustomize(t, component))
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

// kustomize builds deploy/base with a component.
func kustomize(t *testing.T, component string) string {
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
	text := "resources: [" + relative("base") + "]\ncomponents: [" + relative(component) + "]\n"
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
