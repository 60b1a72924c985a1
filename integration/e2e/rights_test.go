package e2e

import (
	"encoding/json"
	"fmt"
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
	gatewayAPI   = "/apis/gateway.networking.k8s.io/v1/"
)

// agentRights: an agent writes what is of its own node and nothing else, by rights that the
// real token of its pod carries.
func agentRights(t *testing.T, c *Cluster) {
	t.Helper()
	const ofOthers, noNode = "writes what is of its own node only", "names no node"
	lease := func(name string) any {
		return object("coordination.k8s.io/v1", "Lease", name, map[string]any{"spec": map[string]any{"holderIdentity": "e2e"}})
	}
	report := func(name string) any {
		return object("portway.dev/v1alpha1", "NodeReport", name, map[string]any{"report": map[string]any{"version": 1}})
	}
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
			request{"POST", reportsPath, report("node9"), ofOthers},

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
	const ours, shape, finalizers = "with the labels", "without externalIPs", "nothing but the finalizers"
	service := func(labels map[string]any, spec map[string]any) any {
		spec["ports"], spec["selector"] = []any{map[string]any{"port": 80}}, map[string]any{"app": "x"}
		return map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "s", "labels": labels}, "spec": spec}
	}
	marks := map[string]any{"portway.dev/gateway-namespace": "guide", "portway.dev/gateway-name": "gw"}
	metadata := func(fields map[string]any) any { return map[string]any{"metadata": fields} }
	const class = gatewayAPI + "gatewayclasses/portway"
	c.as(t, "portway-controller", c.podOf(t, "controller", "")).try(t,
		request{"GET", gatewayAPI + "gateways", nil, permitted},
		request{"PUT", gatewayAPI + "namespaces/guide/gateways/my-tcp-gateway/status", nil, permitted},
		request{"PUT", class + "/status", nil, permitted},
		request{"PATCH", class, metadata(map[string]any{"finalizers": []string{"gateway-exists-finalizer.gateway.networking.k8s.io"}}), permitted},
		request{"PUT", leasesPath + "/portway-controller", nil, permitted},
		request{"POST", servicesPath, service(marks, map[string]any{"type": "LoadBalancer"}), permitted},

		request{"PATCH", class, map[string]any{"spec": map[string]any{"description": "another"}}, finalizers},
		request{"PATCH", class, metadata(map[string]any{"labels": map[string]any{"a": "b"}}), finalizers},
		request{"PATCH", class, metadata(map[string]any{"annotations": map[string]any{"a": "b"}}), finalizers},
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
