package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

const (
	// settle is how long anything may take that is not measured.
	settle = 20 * time.Second
	// replyLimit is for one connection or packet and its answer.
	replyLimit = 2 * time.Second
	echoPort   = 6000
)

// start starts a cluster of the test's own, without the product.
func start(t *testing.T, crds string) *Cluster {
	t.Helper()
	return startWith(t, Options{CRDs: crds})
}

// startWith does so with more to choose.
func startWith(t *testing.T, o Options) *Cluster {
	t.Helper()
	if os.Getenv("E2E") == "" {
		t.Skip("E2E=1 starts a Kubernetes on this machine; it needs root")
	}
	build := lab.Build
	if o.Full {
		build = lab.BuildFull
	}
	if _, err := build(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	o.Name, o.Progress = "e2e-"+t.Name(), os.Stderr
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if err := lab.PrintLogs(os.Stderr, c.Dir(), 60, "portway"); err != nil {
				t.Error(err)
			}
		}
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// deployed starts a cluster with the product in it.
func deployed(t *testing.T, crds string) *Cluster {
	t.Helper()
	c := start(t, crds)
	if err := c.Deploy(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return c
}

// space is a namespace of one test.
type space struct {
	*Cluster
	name string
}

// space makes the namespace; it goes with the test.
func (c *Cluster) space(t *testing.T, name string) *space {
	t.Helper()
	s := &space{Cluster: c, name: name}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.describe(t)
		}
		// The ports of its Gateways are another test's next, and there may be a thousand of them.
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := c.Gateway.GatewayV1().Gateways(name).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		if err := c.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return s
}

// describe logs what the API server has to say about the namespace.
func (s *space) describe(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	out, err := s.Kubectl(ctx, "get", "-n", s.name, "-o", "yaml", "gateways,tcproutes,udproutes,endpointslices")
	const enough = 64 << 10 // of a benchmark's there are megabytes
	t.Logf("%s\n%v", out[:min(len(out), enough)], err)
}

// apply applies manifests in the namespace unless they name another.
func (s *space) apply(t *testing.T, manifests ...string) {
	t.Helper()
	cmd, err := s.Machine().Command(t.Context(), s.Bin("kubectl"), "apply", "-n", s.name, "--server-side", "--force-conflicts", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(strings.Join(manifests, "\n---\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v: %s", err, out)
	}
}

func (s *space) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.Kubectl(t.Context(), append([]string{"-n", s.name}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually fails the test if f does not return nil in time.
func eventually(t *testing.T, limit time.Duration, f func() error) time.Duration {
	t.Helper()
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := Eventually(ctx, f); err != nil {
		t.Fatalf("after %s: %v", time.Since(started).Round(time.Millisecond), err)
	}
	return time.Since(started)
}

// programmed waits until a Gateway has proof of its current specification and
// returns it.
func (s *space) programmed(t *testing.T, name string) *gatewayv1.Gateway {
	t.Helper()
	var gw *gatewayv1.Gateway
	eventually(t, settle, func() (err error) {
		if gw, err = s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		return current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, "")
	})
	return gw
}

// current returns an error unless the condition is of this generation, with this
// status and, if one is given, reason.
func current(all []metav1.Condition, generation int64, condition string, status metav1.ConditionStatus, reason string) error {
	c := meta.FindStatusCondition(all, condition)
	switch {
	case c == nil:
		return fmt.Errorf("no condition %s", condition)
	case c.ObservedGeneration != generation || c.Status != status || reason != "" && c.Reason != reason:
		return fmt.Errorf("%s is %s/%s of generation %d (%s), want %s/%s of %d", condition, c.Status, c.Reason, c.ObservedGeneration, c.Message, status, reason, generation)
	}
	return nil
}

// routeHas waits until each parent of a TCPRoute has the condition.
func (s *space) routeHas(t *testing.T, name string, condition gatewayv1.RouteConditionType, status metav1.ConditionStatus, reason gatewayv1.RouteConditionReason) {
	t.Helper()
	eventually(t, settle, func() error {
		r, err := s.Gateway.GatewayV1().TCPRoutes(s.name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(r.Status.Parents) == 0 {
			return fmt.Errorf("TCPRoute %s has no parent in its status", name)
		}
		for _, parent := range r.Status.Parents {
			if err := current(parent.Conditions, r.Generation, string(condition), status, string(reason)); err != nil {
				return err
			}
		}
		return nil
	})
}

// every address of a node, in both families.
func everyNode(c *Cluster) (all []netip.Addr) {
	for i := range Nodes {
		all = append(all, c.Node(i+1).Addresses...)
	}
	return all
}

// addresses of a Gateway.
func addresses(t *testing.T, gw *gatewayv1.Gateway) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, a := range gw.Status.Addresses {
		addr, err := netip.ParseAddr(a.Value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, addr)
	}
	if len(all) == 0 {
		t.Fatal("the Gateway has no address")
	}
	return all
}

// scale sets the replicas of a Deployment and waits until they are what is ready.
func (s *space) scale(t *testing.T, name string, replicas int) {
	t.Helper()
	s.kubectl(t, "scale", "deployment/"+name, "--replicas="+strconv.Itoa(replicas))
	s.ready(t, name, replicas)
}

func (s *space) ready(t *testing.T, name string, replicas int) {
	t.Helper()
	eventually(t, settle, func() error {
		d, err := s.Kube.AppsV1().Deployments(s.name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || int(d.Status.ReadyReplicas) != replicas || int(d.Status.Replicas) != replicas {
			return fmt.Errorf("%d of %d pods of %s are ready", d.Status.ReadyReplicas, replicas, name)
		}
		return nil
	})
}

// backend is a Service and its pods, which serve TCP and UDP on one port. They stay
// for a moment after they were told to go, as servers should.
func backend(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: tcp, port: %[3]d, protocol: TCP}
  - {name: udp, port: %[3]d, protocol: UDP}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: echo
        image: portway-lab/echo:v1
        args: ["%[3]d"]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: ECHO_LINGER, value: 2s}
        readinessProbe: {tcpSocket: {port: %[3]d}, periodSeconds: 1}
`, name, replicas, echoPort)
}

// gateway has TCP and UDP listeners tcp-PORT and udp-PORT.
func gateway(name string, ports ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s}
spec:
  gatewayClassName: %s
  listeners:
`, name, ClassName)
	for _, port := range ports {
		fmt.Fprintf(&b, "  - {name: tcp-%[1]d, protocol: TCP, port: %[1]d, allowedRoutes: {namespaces: {from: All}}}\n", port)
		fmt.Fprintf(&b, "  - {name: udp-%[1]d, protocol: UDP, port: %[1]d, allowedRoutes: {namespaces: {from: All}}}\n", port)
	}
	return b.String()
}

// route is a TCPRoute or UDPRoute to backends, each NAME, NAME=WEIGHT or
// NAMESPACE/NAME. The parent is GATEWAY or GATEWAY:SECTION.
func route(kind, name, parent string, backends ...string) string {
	var b strings.Builder
	gw, section, _ := strings.Cut(parent, ":")
	fmt.Fprintf(&b, `
apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: %s}
spec:
  parentRefs:
  - name: %s
`, kind, name, gw)
	if section != "" {
		fmt.Fprintf(&b, "    sectionName: %s\n", section)
	}
	b.WriteString("  rules:\n  - backendRefs:\n")
	for _, ref := range backends {
		ref, weight, weighted := strings.Cut(ref, "=")
		namespace, name, ok := strings.Cut(ref, "/")
		if !ok {
			name = namespace
		}
		fmt.Fprintf(&b, "    - {name: %s, port: %d", name, echoPort)
		if ok {
			fmt.Fprintf(&b, ", namespace: %s", namespace)
		}
		if weighted {
			fmt.Fprintf(&b, ", weight: %s", weight)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// join makes an address and port for dialling.
func join(addr netip.Addr, port int) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(port))
}

// only returns an error unless all of a set are of one Deployment.
func only(pods map[string]int, deployment string) error {
	for pod := range pods {
		if !strings.HasPrefix(pod, deployment+"-") {
			return fmt.Errorf("%s answered, not %s", pod, deployment)
		}
	}
	return nil
}

func sorted(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
