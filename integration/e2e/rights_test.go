package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Ways a request may go.
const (
	permitted = ""
	// rbac is what the API server says of what no rule permits.
	rbac = "cannot"
)

// request is one that somebody makes; nothing of it is kept.
type request struct {
	verb, path string
	body       any    // nil: what the administrator reads at the path
	want       string // permitted, or a part of the refusal
}

// identity is a client with a token of a service account.
type identity struct {
	*kubernetes.Clientset
	admin rest.Interface
}

// as returns a client with a token as kubelet asks for it: bound to a pod, and thereby to its
// node; or bound to nothing.
func (c *Cluster) as(t *testing.T, account string, pod *corev1.Pod) identity {
	t.Helper()
	ask := &authenticationv1.TokenRequest{}
	if pod != nil {
		ask.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	token, err := c.Kube.CoreV1().ServiceAccounts(System).CreateToken(t.Context(), account, ask, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return identity{clients, c.Kube.CoreV1().RESTClient()}
}

func (c *Cluster) podOf(t *testing.T, component, node string) *corev1.Pod {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; (node == "" || pod.Spec.NodeName == node) && pod.DeletionTimestamp == nil {
			return pod
		}
	}
	t.Fatalf("no %s on node %q", component, node)
	return nil
}

// try makes requests, without effect, and compares how each goes.
func (id identity) try(t *testing.T, requests ...request) {
	t.Helper()
	for _, r := range requests {
		t.Run(fmt.Sprintf("%s %s", r.verb, r.path), func(t *testing.T) {
			body := id.body(t, r)
			ask := id.CoreV1().RESTClient().Verb(r.verb).AbsPath(r.path).Param("dryRun", metav1.DryRunAll)
			switch r.verb {
			case "GET":
				ask = id.CoreV1().RESTClient().Get().AbsPath(r.path)
			case "PATCH":
				ask = id.CoreV1().RESTClient().Patch(types.MergePatchType).AbsPath(r.path).Param("dryRun", metav1.DryRunAll).Body(body)
			case "DELETE":
			default:
				ask = ask.SetHeader("Content-Type", "application/json").Body(body)
			}
			err := ask.Do(t.Context()).Error()
			switch {
			case r.want == permitted && err != nil:
				t.Errorf("want it to be permitted: %v", err)
			case r.want != permitted && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err):
				t.Errorf("want it to be forbidden, got %v", err)
			case r.want != permitted && !strings.Contains(err.Error(), r.want):
				t.Errorf("forbidden by something else than %q: %v", r.want, err)
			}
		})
	}
}

func (id identity) body(t *testing.T, r request) []byte {
	t.Helper()
	if r.verb == "GET" || r.verb == "DELETE" {
		return nil
	}
	if r.body == nil {
		current, err := id.admin.Get().AbsPath(strings.TrimSuffix(r.path, "/status")).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return current
	}
	data, err := json.Marshal(r.body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// object is the least of one that can be created.
func object(apiVersion, kind, name string, fields map[string]any) map[string]any {
	o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}
	for key, value := range fields {
		o[key] = value
	}
	return o
}

const (
	leasesPath   = "/apis/coordination.k8s.io/v1/namespaces/" + System + "/leases"
	reportsPath  = "/apis/portway.dev/v1alpha1/nodereports"
	servicesPath = "/api/v1/namespaces/" + System + "/services"
	poolsPath    = "/apis/portway.dev/v1alpha1/addresspools"
	gatewayAPI   = "/apis/gateway.networking.k8s.io/v1/"
)

func metadata(fields map[string]any) any { return map[string]any{"metadata": fields} }

func lease(name string) any {
	return object("coordination.k8s.io/v1", "Lease", name, map[string]any{"spec": map[string]any{"holderIdentity": "e2e"}})
}

// ownedReport is a NodeReport that a Node owns, if that has a name.
func ownedReport(name, owner string) any {
	o := object("portway.dev/v1alpha1", "NodeReport", name, map[string]any{"report": map[string]any{"version": 1}})
	if owner != "" {
		o["metadata"] = map[string]any{"name": name, "ownerReferences": owned(owner)}
	}
	return o
}

// owned are ownerReferences to a Node whose UID nothing has: garbage collection would delete
// what has them.
func owned(node string) []any {
	return []any{map[string]any{"apiVersion": "v1", "kind": "Node", "name": node, "uid": "00000000-0000-0000-0000-000000000000"}}
}

// agentRights: an agent writes what is of its own node and nothing else, by rights that the
// real token of its pod carries.
func agentRights(t *testing.T, c *Cluster) {
	t.Helper()
	const ofOthers, noNode = "writes what is of its own node only", "names no node"
	t.Run("node1", func(t *testing.T) {
		c.as(t, "portway-agent", c.podOf(t, "agent", "node1")).try(t,
			request{"GET", gatewayAPI + "gateways", nil, permitted},
			request{"GET", "/apis/discovery.k8s.io/v1/endpointslices", nil, permitted},
			request{"GET", "/api/v1/nodes/node1", nil, permitted},
			request{"GET", leasesPath + "/agent-node1", nil, permitted},
			request{"PUT", leasesPath + "/agent-node1", nil, permitted},
			request{"DELETE", leasesPath + "/agent-node1", nil, permitted},
			request{"PUT", reportsPath + "/node1", nil, permitted},
			request{"DELETE", reportsPath + "/node1", nil, permitted},

			request{"PUT", leasesPath + "/agent-node2", nil, ofOthers},
			request{"DELETE", leasesPath + "/agent-node2", nil, ofOthers},
			request{"PUT", leasesPath + "/portway-controller", nil, ofOthers},
			request{"POST", leasesPath, lease("node1"), ofOthers},
			request{"POST", leasesPath, lease("agent-node9"), ofOthers},
			request{"PUT", reportsPath + "/node2", nil, ofOthers},
			request{"DELETE", reportsPath + "/node2", nil, ofOthers},
			request{"POST", reportsPath, ownedReport("node9", "node9"), ofOthers},

			request{"GET", leasesPath, nil, rbac},
			request{"GET", reportsPath, nil, rbac},
			request{"DELETE", reportsPath, nil, rbac},
			request{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1", nil, rbac},
			request{"GET", "/api/v1/secrets", nil, rbac},
			request{"GET", "/api/v1/configmaps", nil, rbac},
			request{"GET", "/api/v1/pods", nil, rbac},
			request{"GET", "/api/v1/nodes", nil, rbac},
			request{"PATCH", "/api/v1/nodes/node1", object("v1", "Node", "node1", nil), rbac},
			request{"PATCH", "/api/v1/nodes/node1/status", object("v1", "Node", "node1", nil), rbac},
			request{"POST", servicesPath, object("v1", "Service", "s", nil), rbac},
			request{"POST", "/api/v1/namespaces/" + System + "/serviceaccounts/portway-controller/token", object("authentication.k8s.io/v1", "TokenRequest", "", nil), rbac},
			request{"PATCH", gatewayAPI + "gatewayclasses/portway", object("gateway.networking.k8s.io/v1", "GatewayClass", "portway", nil), rbac},
			request{"PATCH", gatewayAPI + "namespaces/guide/gateways/my-tcp-gateway/status", object("gateway.networking.k8s.io/v1", "Gateway", "my-tcp-gateway", nil), rbac},
			request{"PATCH", "/apis/apps/v1/namespaces/" + System + "/daemonsets/portway-agent", object("apps/v1", "DaemonSet", "portway-agent", nil), rbac},
		)
	})
	// Such as one of a Secret, which would outlive the node.
	t.Run("without a node", func(t *testing.T) {
		c.as(t, "portway-agent", nil).try(t,
			request{"PUT", leasesPath + "/agent-node1", nil, noNode},
			request{"PUT", reportsPath + "/node1", nil, noNode},
			request{"GET", gatewayAPI + "gateways", nil, permitted},
		)
	})
}

// controllerRights: the controller writes statuses, finalizers, its Lease, Events and the
// Services of its Gateways.
func controllerRights(t *testing.T, c *Cluster) {
	t.Helper()
	const ours, shape, finalizer = "with the labels", "without externalIPs", "but its finalizer"
	service := func(labels map[string]any, spec map[string]any) any {
		spec["ports"], spec["selector"] = []any{map[string]any{"port": 80}}, map[string]any{"app": "x"}
		return map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "s", "labels": labels}, "spec": spec}
	}
	marks := map[string]any{"portway.dev/gateway-namespace": "guide", "portway.dev/gateway-name": "gw"}
	const class = gatewayAPI + "gatewayclasses/portway"
	c.as(t, "portway-controller", c.podOf(t, "controller", "")).try(t,
		request{"GET", gatewayAPI + "gateways", nil, permitted},
		request{"PUT", gatewayAPI + "namespaces/guide/gateways/my-tcp-gateway/status", nil, permitted},
		request{"PUT", class + "/status", nil, permitted},
		request{"PATCH", class, metadata(map[string]any{"finalizers": []string{"gateway-exists-finalizer.gateway.networking.k8s.io"}}), permitted},
		request{"PUT", leasesPath + "/portway-controller", nil, permitted},
		request{"POST", servicesPath, service(marks, map[string]any{"type": "LoadBalancer"}), permitted},

		request{"PATCH", class, map[string]any{"spec": map[string]any{"description": "another"}}, finalizer},
		request{"PATCH", class, metadata(map[string]any{"labels": map[string]any{"a": "b"}}), finalizer},
		request{"PATCH", class, metadata(map[string]any{"annotations": map[string]any{"a": "b"}}), finalizer},
		request{"POST", servicesPath, service(nil, map[string]any{"type": "LoadBalancer"}), ours},
		request{"POST", servicesPath, service(marks, map[string]any{"type": "ClusterIP"}), shape},
		request{"POST", servicesPath, service(marks, map[string]any{"type": "LoadBalancer", "externalIPs": []string{"192.0.2.1"}}), shape},

		request{"POST", "/api/v1/namespaces/default/services", service(marks, map[string]any{"type": "LoadBalancer"}), rbac},
		request{"DELETE", "/api/v1/namespaces/default/services/kubernetes", nil, rbac},
		request{"PUT", leasesPath + "/agent-node1", nil, rbac},
		request{"DELETE", leasesPath + "/agent-node1", nil, rbac},
		request{"PUT", reportsPath + "/node1", nil, rbac},
		request{"PUT", gatewayAPI + "namespaces/guide/gateways/my-tcp-gateway", nil, rbac},
		request{"DELETE", class, nil, rbac},
		request{"GET", "/api/v1/secrets", nil, rbac},
		request{"GET", "/api/v1/pods", nil, rbac},
		request{"PATCH", "/api/v1/nodes/node1", object("v1", "Node", "node1", nil), rbac},
		request{"PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.gateway.networking.k8s.io", metadata(map[string]any{"labels": map[string]any{"a": "b"}}), rbac},
		request{"PATCH", "/apis/apps/v1/namespaces/" + System + "/daemonsets/portway-agent", object("apps/v1", "DaemonSet", "portway-agent", nil), rbac},
	)
}

// weakerRights: what is left of an agent's limits where no token names a node, by the policy
// that the chart has before 1.32.
func weakerRights(t *testing.T, c *Cluster) {
	t.Helper()
	const account, ofAgents, unowned = "portway-older", "Leases of agents only", "does not own this one"
	dir := t.TempDir()
	if _, err := c.helm(t.Context(), "template", release, filepath.Join(c.root, "deploy", "chart"), "--namespace", System,
		"--kube-version", "1.31.0", "--output-dir", dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, release, "templates", "policies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// Beside the policies that there are, for another account.
	file := filepath.Join(dir, "policies.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(strings.ReplaceAll(string(text), "portway-agent", account), "portway-controller", "portway-nobody")), 0o644); err != nil {
		t.Fatal(err)
	}
	c.account(t, account, "portway-agent")
	c.kubectlFile(t, "apply", "-f", file)
	t.Cleanup(func() { c.undo(t, "delete", "-f", file) })
	id := c.as(t, account, nil)
	eventually(t, settle, func() error {
		err := id.CoreV1().RESTClient().Delete().AbsPath(leasesPath+"/portway-controller").Param("dryRun", metav1.DryRunAll).Do(t.Context()).Error()
		if err == nil {
			return errors.New("the policy is not in force")
		}
		return nil
	})
	id.try(t,
		request{"PUT", leasesPath + "/agent-node1", nil, permitted},
		request{"POST", leasesPath, lease("agent-node9"), permitted},
		request{"PUT", reportsPath + "/node1", nil, permitted},
		request{"POST", reportsPath, ownedReport("node9", "node9"), permitted},

		request{"PUT", leasesPath + "/portway-controller", nil, ofAgents},
		request{"DELETE", leasesPath + "/portway-controller", nil, ofAgents},
		request{"POST", leasesPath, lease("another"), ofAgents},
		request{"POST", reportsPath, ownedReport("node9", ""), unowned},
		request{"POST", reportsPath, ownedReport("node9", "node1"), unowned},
	)
}

// finalizerRights: of classes and pools the controller, and what cleans up, write one finalizer
// and nothing that lets anything else delete or keep them.
func finalizerRights(t *testing.T, c *Cluster) {
	t.Helper()
	const (
		ofClass, ofPool        = "gateway-exists-finalizer.gateway.networking.k8s.io", "portway.dev/address-pool-in-use"
		theirs                 = "example.com/theirs"
		finalizer, ofOthers    = "but its finalizer", "of controllerName portway.dev/gateway-controller only"
		class, otherClass      = gatewayAPI + "gatewayclasses/rights", gatewayAPI + "gatewayclasses/rights-of-others"
		pool                   = poolsPath + "/rights"
		cleanup, cleanupRights = "portway-cleanup", "portway-controller"
	)
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: rights, finalizers: [`+theirs+`]}
spec: {controllerName: `+controllerName+`}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: rights-of-others}
spec: {controllerName: example.com/others}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: rights, finalizers: [`+theirs+`, `+ofPool+`]}
spec: {addresses: [198.51.100.128/28]}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	c.kubectlFile(t, "apply", "-f", file)
	t.Cleanup(func() {
		c.undo(t, "patch", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`, "-f", file)
		c.undo(t, "delete", "-f", file)
	})
	c.account(t, cleanup, cleanupRights)
	finalizers := func(names ...string) any { return metadata(map[string]any{"finalizers": names}) }
	for _, id := range []struct {
		name string
		identity
	}{
		{"controller", c.as(t, "portway-controller", c.podOf(t, "controller", ""))},
		{"cleanup", c.as(t, cleanup, nil)},
	} {
		t.Run(id.name, func(t *testing.T) {
			id.try(t,
				request{"PATCH", class, finalizers(theirs, ofClass), permitted},
				request{"PATCH", class, finalizers(ofClass, theirs), permitted},
				request{"PATCH", pool, finalizers(theirs), permitted},
				request{"PATCH", pool, finalizers(theirs, ofPool), permitted},

				request{"PATCH", class, finalizers(ofClass), finalizer},
				request{"PATCH", class, finalizers(), finalizer},
				request{"PATCH", class, finalizers(theirs, "example.com/more"), finalizer},
				request{"PATCH", class, finalizers(theirs, ofPool), finalizer},
				request{"PATCH", class, metadata(map[string]any{"ownerReferences": owned("gone")}), finalizer},
				request{"PATCH", otherClass, finalizers(ofClass), ofOthers},
				request{"PATCH", pool, finalizers(ofPool), finalizer},
				request{"PATCH", pool, finalizers(theirs, ofPool, "example.com/more"), finalizer},
				request{"PATCH", pool, finalizers(theirs, ofPool, ofClass), finalizer},
				request{"PATCH", pool, metadata(map[string]any{"ownerReferences": owned("gone")}), finalizer},
				request{"PATCH", pool, metadata(map[string]any{"labels": map[string]any{"a": "b"}}), finalizer},
				request{"PATCH", pool, metadata(map[string]any{"annotations": map[string]any{"a": "b"}}), finalizer},
				request{"PATCH", pool, map[string]any{"spec": map[string]any{"addresses": []string{"198.51.100.0/24"}}}, finalizer},
				request{"DELETE", pool, nil, rbac},
			)
		})
	}
}

// account makes a service account with the rights that another one has.
func (c *Cluster) account(t *testing.T, name, as string) {
	t.Helper()
	subject := "--serviceaccount=" + System + ":" + name
	for _, object := range [][]string{
		{"serviceaccount", name},
		{"rolebinding", name, "--role=" + as, subject},
		{"clusterrolebinding", name, "--clusterrole=" + as, subject},
	} {
		c.kubectlFile(t, append([]string{"-n", System, "create"}, object...)...)
		t.Cleanup(func() { c.undo(t, "-n", System, "delete", object[0], name) })
	}
}

// undo runs kubectl when a test has ended.
func (c *Cluster) undo(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), settle)
	defer cancel()
	if _, err := c.Kubectl(ctx, args...); err != nil {
		t.Error(err)
	}
}
