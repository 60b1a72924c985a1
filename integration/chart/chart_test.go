package chart

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// everything turns on what is off, and gives every other value another one.
var everything = []string{
	"--set", "layer2.enabled=true,layer2.port=7947,layer2.network=192.0.2.0/24,layer2.keySecret=other",
	"--set", "agent.iptablesLegacy=true,agent.backend=iptables,agent.endTCPFlows=true,agent.port=9999,agent.leaseRenewInterval=5s,agent.verbosity=2,agent.maxUnavailable=10%",
	"--set", "agent.extraArgs={--ct-mark=0x2000},agent.nodeSelector.edge=yes,agent.podLabels.a=b,agent.podAnnotations.a=b",
	"--set", "controller.replicas=3,controller.nodeAddressType=External,controller.agentTimeout=1m,controller.port=9000,controller.verbosity=2,controller.extraArgs={--kube-api-qps=10}",
	"--set", "controller.nodeSelector.infra=yes,controller.podLabels.a=b,controller.podAnnotations.a=b",
	"--set-json", `controller.tolerations=[{"operator":"Exists"}]`,
	"--set-json", `controller.networkPolicy={"enabled":true,"apiServerPorts":[6443],"metricsFrom":[{"namespaceSelector":{}}]}`,
	"--set", "image.pullSecrets={one},image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
	"--set", "controller.runAsUser=1000",
	"--set", "gatewayClass.name=edge,gatewayClass.parameters.name=pools",
}

var nothing = []string{
	"--set", "gatewayClass.create=false,crds.install=false,admissionPolicies=never,loadBalancer.enabled=false,cleanup.enabled=false",
	"--set", "controller.podDisruptionBudget.enabled=false,controller.networkPolicy.enabled=false,controller.priorityClassName=,agent.priorityClassName=",
	"--set-json", `agent.tolerations=[]`,
}

// TestRendersWhatTypesTake: no field that the API does not know, whatever is turned on.
func TestRendersWhatTypesTake(t *testing.T) {
	for name, test := range map[string]struct {
		flags []string
		kinds map[string]int
	}{
		"default": {nil, map[string]int{
			"ClusterRole": 4, "ClusterRoleBinding": 4, "CustomResourceDefinition": 3, "DaemonSet": 2, "Deployment": 1, "GatewayClass": 1, "Job": 1,
			"NetworkPolicy": 1, "Pod": 1, "PodDisruptionBudget": 1, "Role": 4, "RoleBinding": 4, "ServiceAccount": 4,
			"ValidatingAdmissionPolicy": 3, "ValidatingAdmissionPolicyBinding": 3,
		}},
		"everything": {everything, map[string]int{
			"ClusterRole": 4, "ClusterRoleBinding": 4, "CustomResourceDefinition": 3, "DaemonSet": 2, "Deployment": 1, "GatewayClass": 1, "Job": 1,
			"NetworkPolicy": 1, "Pod": 1, "PodDisruptionBudget": 1, "Role": 4, "RoleBinding": 4, "ServiceAccount": 4,
			"ValidatingAdmissionPolicy": 3, "ValidatingAdmissionPolicyBinding": 3,
		}},
		"nothing": {nothing, map[string]int{
			"ClusterRole": 3, "ClusterRoleBinding": 3, "DaemonSet": 1, "Deployment": 1, "Pod": 1, "Role": 3, "RoleBinding": 3, "ServiceAccount": 3,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			kinds := map[string]int{}
			for _, o := range decode(t, mustRender(t, test.flags...)) {
				kinds[o.GetObjectKind().GroupVersionKind().Kind]++
			}
			if diff := cmp.Diff(test.kinds, kinds); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, file := range []string{"../../deploy/install.yaml", "../../deploy/cleanup.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(decode(t, string(text))) < 6 {
			t.Errorf("%s holds next to nothing", file)
		}
	}
}

// TestRefuses: what cannot be meant is refused with the name of the value.
func TestRefuses(t *testing.T) {
	for set, want := range map[string]string{
		"agent.portt=1":                                          "portt",
		"agent.port=70000":                                       "port",
		"agent.backend=ebpf":                                     "backend",
		"agent.maxUnavailable=0":                                 "maxUnavailable",
		"agent.maxUnavailable=half":                              "maxUnavailable",
		"agent.leaseRenewInterval=ten":                           "leaseRenewInterval",
		"agent.extraArgs={backend}":                              "extraArgs",
		"admissionPolicies=sometimes":                            "admissionPolicies",
		"controller.replicas=0":                                  "replicas",
		"controller.nodeAddressType=Public":                      "nodeAddressType",
		"image.digest=sha256:1":                                  "digest",
		"layer2.network=home":                                    "network",
		"nodePorts=22;80":                                        "nodePorts",
		"controller.runAsUser=nobody":                            "runAsUser",
		"agent.podLabels.app\\.kubernetes\\.io/name=x":           "agent/podLabels",
		"controller.podLabels.app\\.kubernetes\\.io/component=x": "controller/podLabels",
		"layer2.enabled=true,agent.port=7946":                    "agent.port and layer2.port",
		"layer2.enabled=true,layer2.port=9617":                   "agent.port and layer2.port",
	} {
		if out, err := render(t, "--set", set); err == nil || !strings.Contains(out, want) {
			t.Errorf("--set %s: want an error that names %s, got %v: %s", set, want, err, out)
		}
	}
}

// TestSamePortWithoutLayer2: nobody listens on layer2.port then.
func TestSamePortWithoutLayer2(t *testing.T) {
	mustRender(t, "--set", "agent.port=7946")
}

// TestVersions: what the chart does on which Kubernetes, and what it says where it is weaker.
func TestVersions(t *testing.T) {
	if out, err := render(t, "--kube-version", "1.29.9"); err == nil || !strings.Contains(out, "1.30") {
		t.Errorf("1.29: want an error that names 1.30, got %v: %s", err, out)
	}
	policies := func(flags ...string) []string {
		var names []string
		for _, o := range decode(t, mustRender(t, flags...)) {
			if policy, ok := o.(*admissionv1.ValidatingAdmissionPolicy); ok {
				names = append(names, policy.Name)
			}
		}
		slices.Sort(names)
		return names
	}
	all := []string{"portway-agent", "portway-controller", "portway-controller-services"}
	for name, test := range map[string]struct {
		flags []string
		want  []string
	}{
		"1.30":         {[]string{"--kube-version", "1.30.0"}, all},
		"1.31":         {[]string{"--kube-version", "1.31.4"}, all},
		"1.31, always": {[]string{"--kube-version", "1.31.4", "--set", "admissionPolicies=always"}, all},
		"1.32":         {[]string{"--kube-version", "1.32.0"}, all},
		"vendor's":     {[]string{"--kube-version", "v1.33.1-gke.100"}, all},
		"never":        {[]string{"--set", "admissionPolicies=never"}, nil},
		"no Services":  {[]string{"--set", "loadBalancer.enabled=false"}, all[:2]},
	} {
		if diff := cmp.Diff(test.want, policies(test.flags...)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// TestTokensWithoutNode: from 1.32 on they are refused; before, where not every API server puts
// the node into tokens, only what they may write is said, in the text of the policy.
func TestTokensWithoutNode(t *testing.T) {
	for name, test := range map[string]struct {
		flags   []string
		refused bool
	}{
		"1.31":         {[]string{"--kube-version", "1.31.4"}, false},
		"1.31, always": {[]string{"--kube-version", "1.31.4", "--set", "admissionPolicies=always"}, true},
		"1.32":         {[]string{"--kube-version", "1.32.0"}, true},
	} {
		var refuses, limits bool
		for _, v := range only[*admissionv1.ValidatingAdmissionPolicy](t, decode(t, mustRender(t, test.flags...)), "portway-agent").Spec.Validations {
			refuses = refuses || v.Expression == `variables.node != ""`
			limits = limits || strings.Contains(v.Expression, `startsWith("agent-")`)
		}
		if refuses != test.refused || limits == test.refused {
			t.Errorf("%s: refused %t, limited %t", name, refuses, limits)
		}
	}
}

// TestPoliciesAnywhere: policies hold in whatever namespace kustomize puts the rest.
func TestPoliciesAnywhere(t *testing.T) {
	for _, version := range []string{"1.31.0", "1.32.0"} {
		for _, o := range decode(t, mustRender(t, "--kube-version", version)) {
			if policy, ok := o.(*admissionv1.ValidatingAdmissionPolicy); ok && strings.Contains(policy.String(), "portway-system") {
				t.Errorf("%s: %s holds the release's namespace", version, policy.Name)
			}
		}
	}
}

// TestStrings: what looks like a number to YAML stays a string.
func TestStrings(t *testing.T) {
	objects := decode(t, mustRender(t, "--namespace", "1", "--set", "layer2.enabled=true", "--set-string",
		"image.pullSecrets={3},layer2.keySecret=4,gatewayClass.name=5,gatewayClass.parameters.name=6,gatewayClass.parameters.namespace=7,"+
			"agent.priorityClassName=8,controller.priorityClassName=9", "--no-hooks"))
	class := only[*gatewayv1.GatewayClass](t, objects, "5")
	if diff := cmp.Diff(&gatewayv1.ParametersReference{Group: "portway.dev", Kind: "GatewayParameters", Name: "6", Namespace: ptr.To(gatewayv1.Namespace("7"))}, class.Spec.ParametersRef); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAgentRights: NET_ADMIN and nothing else; what more features need, with them only.
func TestAgentRights(t *testing.T) {
	lock := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/run/xtables.lock", Type: ptr.To(corev1.HostPathFileOrCreate)}}
	key := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "portway-layer2", DefaultMode: ptr.To[int32](0o400), Optional: ptr.To(true)}}
	for name, test := range map[string]struct {
		flags        []string
		capabilities []corev1.Capability
		volumes      []corev1.VolumeSource
	}{
		"default": {nil, []corev1.Capability{"NET_ADMIN"}, nil},
		"layer 2": {[]string{"--set", "layer2.enabled=true"}, []corev1.Capability{"NET_ADMIN", "NET_RAW"}, []corev1.VolumeSource{key}},
		"legacy":  {[]string{"--set", "agent.iptablesLegacy=true"}, []corev1.Capability{"NET_ADMIN", "NET_RAW"}, []corev1.VolumeSource{lock}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := agentsOf(t, decode(t, mustRender(t, test.flags...))).Spec.Template.Spec
			want := &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: test.capabilities},
			}
			if diff := cmp.Diff(want, pod.Containers[0].SecurityContext); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var volumes []corev1.VolumeSource
			for _, volume := range pod.Volumes {
				volumes = append(volumes, volume.VolumeSource)
			}
			if diff := cmp.Diff(test.volumes, volumes); diff != "" {
				t.Errorf("volumes: -want +got:\n%s", diff)
			}
			if profile := pod.SecurityContext.SeccompProfile; profile == nil || profile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("seccomp profile %v", profile)
			}
			if !pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.InitContainers) > 0 || len(pod.Containers) != 1 {
				t.Errorf("want the network of the host and one container: %+v", pod)
			}
		})
	}
}

// TestNodesComeAndGo: agents run on every node, go last, one node after the other, and start
// as soon as they can.
func TestNodesComeAndGo(t *testing.T) {
	agents := agentsOf(t, decode(t, mustRender(t)))
	pod := agents.Spec.Template.Spec
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations); diff != "" {
		t.Errorf("tolerations: -want +got:\n%s", diff)
	}
	if pod.PriorityClassName != "system-node-critical" || ptr.Deref(pod.TerminationGracePeriodSeconds, 0) != 5 {
		t.Errorf("priority %s, grace period %v", pod.PriorityClassName, pod.TerminationGracePeriodSeconds)
	}
	if at := agents.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); at != "1" {
		t.Errorf("%s nodes at once", at)
	}
	other := agentsOf(t, decode(t, mustRender(t, everything...)))
	if at := other.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); at != "10%" {
		t.Errorf("%s nodes at once, want 10%%", at)
	}
	if grace := ptr.Deref(other.Spec.Template.Spec.TerminationGracePeriodSeconds, 0); grace != 10 {
		t.Errorf("with layer 2, a grace period of %d s, in which others take over, want 10", grace)
	}
}

// TestController: two replicas, of which one stays, and nothing that needs a right on its node.
func TestController(t *testing.T) {
	objects := decode(t, mustRender(t))
	controller := only[*appsv1.Deployment](t, objects, "portway-controller")
	if replicas := ptr.Deref(controller.Spec.Replicas, 0); replicas != 2 {
		t.Errorf("%d replicas", replicas)
	}
	budget := only[*policyv1.PodDisruptionBudget](t, objects, "portway-controller")
	policy := only[*networkingv1.NetworkPolicy](t, objects, "portway-controller")
	for what, selected := range map[string]map[string]string{
		"budget": budget.Spec.Selector.MatchLabels, "Deployment": controller.Spec.Selector.MatchLabels,
	} {
		if diff := cmp.Diff(controller.Spec.Template.Labels, selected); diff != "" {
			t.Errorf("the %s selects other pods: -want +got:\n%s", what, diff)
		}
	}
	if budget.Spec.MaxUnavailable.String() != "1" || len(policy.Spec.PolicyTypes) != 2 {
		t.Errorf("budget %+v, policy %+v", budget.Spec, policy.Spec)
	}
	// Of one replica, none could be evicted in favour of another.
	if one := mustRender(t, "--set", "controller.replicas=1"); strings.Contains(one, "kind: PodDisruptionBudget") {
		t.Error("a budget for one replica")
	}
}

// TestNetworkPolicy: every pod of ours that has a network of its own reaches the API server,
// where the namespace denies egress by default; only the controller's port is open.
func TestNetworkPolicy(t *testing.T) {
	objects := decode(t, mustRender(t))
	policy := only[*networkingv1.NetworkPolicy](t, objects, "portway-controller")
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]map[string]string{
		"controller": only[*appsv1.Deployment](t, objects, "portway-controller").Spec.Template.Labels,
		"cleanup":    only[*batchv1.Job](t, objects, "portway-cleanup").Spec.Template.Labels,
		"test":       only[*corev1.Pod](t, objects, "portway-test").Labels,
	}
	for name, set := range pods {
		if !selector.Matches(labels.Set(set)) {
			t.Errorf("%s selects not the pod of %s", selector, name)
		}
	}
	if in := policy.Spec.Ingress; len(in) != 1 || len(in[0].Ports) != 1 || in[0].Ports[0].Port.IntValue() != 9618 {
		t.Errorf("ingress %+v", in)
	}
}

// TestRunAsUser: nobody, another one, or whom the cluster assigns.
func TestRunAsUser(t *testing.T) {
	for value, want := range map[string]*int64{"65532": ptr.To[int64](65532), "1000": ptr.To[int64](1000), "0": nil} {
		objects := decode(t, mustRender(t, "--set", "controller.runAsUser="+value))
		for name, security := range map[string]*corev1.PodSecurityContext{
			"controller": only[*appsv1.Deployment](t, objects, "portway-controller").Spec.Template.Spec.SecurityContext,
			"cleanup":    only[*batchv1.Job](t, objects, "portway-cleanup").Spec.Template.Spec.SecurityContext,
			"test":       only[*corev1.Pod](t, objects, "portway-test").Spec.SecurityContext,
		} {
			if !cmp.Equal(want, security.RunAsUser) || !cmp.Equal(want, security.RunAsGroup) || !ptr.Deref(security.RunAsNonRoot, false) {
				t.Errorf("%s of %s: %v", name, value, security)
			}
		}
	}
}

// TestFlags: every flag that the chart passes is one of the programs, and both are told the
// same ports.
func TestFlags(t *testing.T) {
	reference, err := os.ReadFile("../../docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(reference), "\n## ")
	objects := decode(t, mustRender(t, everything...))
	nodePorts := map[string]bool{}
	for program, args := range map[string][]string{
		"portway-agent":      agentsOf(t, objects).Spec.Template.Spec.Containers[0].Args,
		"portway-controller": only[*appsv1.Deployment](t, objects, "portway-controller").Spec.Template.Spec.Containers[0].Args,
	} {
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, program+"\n") })
		if i < 0 || len(args) < 5 {
			t.Fatalf("%s: args %v; described: %t", program, args, i >= 0)
		}
		for _, arg := range args {
			flag, value, _ := strings.Cut(arg, "=")
			if flag == "--node-ports" {
				nodePorts[value] = true
			}
			flag = strings.Replace(flag, "--v", "--v Level", 1)
			if arg != "--v=2" {
				flag, _, _ = strings.Cut(arg, "=")
			}
			if !regexp.MustCompile(regexp.QuoteMeta(flag) + `\b`).MatchString(sections[i]) {
				t.Errorf("%s has no flag %s", program, flag)
			}
		}
	}
	if want := map[string]bool{"22,2379-2380,6443,7947,9999,10250-10259": true}; !cmp.Equal(want, nodePorts) {
		t.Errorf("--node-ports %v, want %v", nodePorts, want)
	}
	// The agents' own two are not lost to a list of the user's.
	if arg := "--node-ports=22,80,7946,9617"; strings.Count(mustRender(t, "--set-string", `nodePorts=22\,80`), arg) != 3 {
		t.Errorf("want agents, controller and what cleans up to have %s", arg)
	}
}

// TestServicesOnlyInMode: without mode LoadBalancer the controller has no right to write Services.
func TestServicesOnlyInMode(t *testing.T) {
	writes := func(flags ...string) bool {
		objects := decode(t, mustRender(t, flags...))
		rules := slices.Concat(only[*rbacv1.ClusterRole](t, objects, "portway-controller").Rules, only[*rbacv1.Role](t, objects, "portway-controller").Rules)
		return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Resources, "services") && slices.Contains(r.Verbs, "create")
		})
	}
	if !writes() || writes("--set", "loadBalancer.enabled=false") {
		t.Error("want the right with loadBalancer.enabled and without it none")
	}
}

// TestCleanersAreAgents: what cleans up has the pod of the agents, with their rights and
// volumes, and does so after them.
func TestCleanersAreAgents(t *testing.T) {
	objects := decode(t, mustRender(t, everything...))
	agent := agentsOf(t, objects).Spec.Template.Spec
	cleaners := only[*appsv1.DaemonSet](t, objects, "portway-cleanup")
	cleaner := cleaners.Spec.Template.Spec
	if len(cleaner.InitContainers) != 1 || len(cleaner.Containers) != 1 || len(cleaner.Containers[0].SecurityContext.Capabilities.Add) > 0 {
		t.Fatalf("want one container that cleans up and one that has no rights: %+v", cleaner)
	}
	got, want := cleaner.InitContainers[0], agent.Containers[0]
	want.Name, want.Args = "cleanup", append(want.Args, "--cleanup", "--cleanup-after=portway-agent")
	want.Ports, want.ReadinessProbe, want.LivenessProbe = nil, nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the container: -agents +cleanup:\n%s", diff)
	}
	agent.Containers, cleaner.Containers, cleaner.InitContainers = nil, nil, nil
	if diff := cmp.Diff(agent, cleaner); diff != "" {
		t.Errorf("the pod: -agents +cleanup:\n%s", diff)
	}
	if agents := agentsOf(t, objects); cmp.Equal(agents.Spec.Selector, cleaners.Spec.Selector) {
		t.Errorf("both select %v", agents.Spec.Selector)
	}
}

// TestClassWithoutCleanup: nobody takes the finalizer off the class then, so it stays.
func TestClassWithoutCleanup(t *testing.T) {
	for cleanup, want := range map[string]string{"true": "", "false": "keep"} {
		class := only[*gatewayv1.GatewayClass](t, decode(t, mustRender(t, "--set", "cleanup.enabled="+cleanup)), "portway")
		if got := class.Annotations["helm.sh/resource-policy"]; got != want {
			t.Errorf("cleanup.enabled=%s: resource policy %q, want %q", cleanup, got, want)
		}
	}
}

// TestNoEscalation: no rule of ours grants all of anything, rights themselves, or to write
// what runs in a namespace where pods may have rights on their nodes.
func TestNoEscalation(t *testing.T) {
	check := func(name string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, word := range slices.Concat(r.APIGroups, r.Resources, r.Verbs) {
				switch word {
				case "*", "secrets", "bind", "escalate", "impersonate", "pods/exec", "serviceaccounts/token", "roles", "clusterroles":
					t.Errorf("%s: %s in %v", name, word, r)
				}
			}
			for _, resource := range r.Resources {
				switch resource {
				case "pods", "daemonsets", "deployments", "jobs", "replicasets":
					if slices.ContainsFunc([]string{"create", "update", "patch"}, func(verb string) bool { return slices.Contains(r.Verbs, verb) }) {
						t.Errorf("%s may write %s", name, resource)
					}
				}
			}
		}
	}
	for _, o := range decode(t, mustRender(t, everything...)) {
		switch role := o.(type) {
		case *rbacv1.ClusterRole:
			check(role.Name, role.Rules)
		case *rbacv1.Role:
			check(role.Name, role.Rules)
		}
	}
}
