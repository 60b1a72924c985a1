package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portway-dev/portway/integration/lab"
)

const (
	pods = 6 // of the Deployment in smoke.yaml
	// upWarm is what a lab may take to come up once its programs are built.
	upWarm = 30 * time.Second
)

// fixture is a lab with smoke.yaml in it.
type fixture struct {
	*lab.Lab
	client          *kubernetes.Clientset
	nodes, families int
}

// newFixture applies manifests and returns when their pods are Ready.
func newFixture(t *testing.T, l *lab.Lab, o lab.Options, manifests ...string) *fixture {
	t.Helper()
	config, err := l.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Lab: l, nodes: o.Nodes, families: len(l.Machine().Addresses)}
	if f.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	for _, file := range manifests {
		content, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Apply(t.Context(), string(content)); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	f.podsReady(t, "app=echo", pods, 30*time.Second)
	f.podsReady(t, "app=host", f.nodes, 20*time.Second)
	t.Logf("%d pods Ready in %s", pods, time.Since(started).Round(time.Millisecond))
	return f
}

// start starts a lab of the test's own, which ends with the test.
func start(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	if os.Getenv("PORTWAY_LAB_TEST") == "" {
		t.Skip("PORTWAY_LAB_TEST=1 starts a Kubernetes on this machine; it needs root")
	}
	build := lab.Build
	if o.Full {
		build = lab.BuildFull
	}
	if _, err := build(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	o.Dir = labDir(t)
	if old, err := lab.Open(o.Dir); err == nil {
		if err := old.Down(); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	l, err := lab.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if err := lab.PrintLogs(os.Stderr, o.Dir, 40); err != nil {
				t.Error(err)
			}
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	took := time.Since(started)
	t.Logf("%d nodes up in %s", o.Nodes, took.Round(time.Millisecond))
	limit := upWarm
	if o.Full {
		limit *= 2
	}
	if took > limit {
		t.Errorf("took longer than %s", limit)
	}
	return l
}

// labDir is where the lab of a test is.
func labDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(lab.CacheDir(), "test-"+strings.ReplaceAll(t.Name(), "/", "-"))
}

func TestLab(t *testing.T) {
	o := lab.Options{Nodes: 3, Dual: true, Audit: true}
	f := newFixture(t, start(t, o), o, "smoke.yaml", "rights.yaml", "reader.yaml")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"reach", f.reach},
		{"host", f.hostNetwork},
		{"slices", f.slices},
		{"rights", f.rights},
		{"configmap", f.configMap},
		{"restart", f.restart},
		{"crash", f.crash},
		{"disconnect", f.disconnect},
		{"apiserver", f.apiServer},
		{"join", f.join},
		{"delete", f.deletion},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

// reach: every pod answers on all its addresses to every node and to other pods.
func (f *fixture) reach(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	on := map[string]bool{}
	for _, pod := range f.list(t, "app=echo") {
		on[pod.Spec.NodeName] = true
		if len(pod.Status.PodIPs) != f.families {
			t.Fatalf("%s has the addresses %v, not %d", pod.Name, pod.Status.PodIPs, f.families)
		}
		for _, ip := range pod.Status.PodIPs {
			for i := 1; i <= f.nodes; i++ {
				answers(t, f.Node(i), ip.IP, 6000, pod.Name)
			}
		}
	}
	all := f.list(t, "app=echo")
	from, err := f.Pod(t.Context(), "default", all[0].Name, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range all[1].Status.PodIPs {
		answers(t, from, ip.IP, 6000, all[1].Name)
	}
	if name, err := from.Output(t.Context(), "hostname"); err != nil || name != all[0].Name+"\n" {
		t.Errorf("in %s the host name is %q, %v", all[0].Name, name, err)
	}
	if len(on) != f.nodes {
		t.Errorf("pods are on %d of %d nodes", len(on), f.nodes)
	}
}

// hostNetwork: a pod in the node's network has the node's addresses, and the
// outside reaches it.
func (f *fixture) hostNetwork(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	for _, pod := range f.list(t, "app=host") {
		if pod.Status.PodIP != pod.Status.HostIP {
			t.Errorf("%s has the address %s, its node %s", pod.Name, pod.Status.PodIP, pod.Status.HostIP)
		}
		for _, ip := range pod.Status.PodIPs {
			answers(t, f.Outside(), ip.IP, 7000, pod.Name)
		}
	}
}

func (f *fixture) slices(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		ready, err := f.readyEndpoints(ctx)
		if err == nil && ready != f.families*pods {
			err = fmt.Errorf("%d endpoints are ready, want %d", ready, f.families*pods)
		}
		return err
	})
}

// rights: in-cluster configuration works, and the service account may do what its
// role says and nothing else; the container has the capabilities it asked for.
func (f *fixture) rights(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	eventually(t, 20*time.Second, func(context.Context) error {
		log, err := f.PodLog("default", "reader", "reader")
		if err != nil {
			return err
		}
		for _, want := range []string{"configmap/settings\n", "Forbidden\n", "CapBnd:\t0000000000000000\n", "color=blue\n"} {
			if !strings.Contains(log, want) {
				return fmt.Errorf("log has no %q:\n%.2000s", want, log)
			}
		}
		return nil
	})
	audit, err := os.ReadFile(filepath.Join(f.Dir(), "audit.log"))
	if err != nil || !strings.Contains(string(audit), `"username":"system:serviceaccount:default:reader"`) {
		t.Errorf("audit.log does not name the service account (%v):\n%.2000s", err, audit)
	}
}

func (f *fixture) configMap(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	if _, err := f.Kubectl(t.Context(), "patch", "configmap", "settings", "-p", `{"data":{"color":"red"}}`); err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	eventually(t, 10*time.Second, func(context.Context) error {
		log, err := f.PodLog("default", "reader", "reader")
		if err == nil && !strings.HasSuffix(log, "color=red\n") {
			err = errors.New("the pod does not see it")
		}
		return err
	})
	t.Logf("seen after %s", time.Since(changed).Round(time.Millisecond))
}

// restart: a container that dies is started again.
func (f *fixture) restart(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	pod := f.list(t, "app=host")[0]
	var node int
	if _, err := fmt.Sscanf(pod.Spec.NodeName, "node%d", &node); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Node(node).Output(t.Context(), "pkill", "-9", "-f", "^/echo 7000"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		now, err := f.client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && (now.Status.ContainerStatuses[0].RestartCount != 1 || !ready(now)) {
			err = fmt.Errorf("status is %+v", now.Status.ContainerStatuses[0])
		}
		return err
	})
}

// crash: the cluster notices that a node is gone; booted again, the node is Ready
// with its pods.
func (f *fixture) crash(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	if err := f.Crash(f.nodes); err != nil {
		t.Fatal(err)
	}
	crashed := time.Now()
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		down, err := f.unready(ctx)
		if err == nil && down != fmt.Sprintf("node%d", f.nodes) {
			err = fmt.Errorf("not Ready: %q", down)
		}
		return err
	})
	t.Logf("NotReady after %s", time.Since(crashed).Round(time.Millisecond))
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		ready, err := f.readyEndpoints(ctx)
		if err == nil && ready != f.families*pods*(f.nodes-1)/f.nodes {
			err = fmt.Errorf("%d endpoints are ready", ready)
		}
		return err
	})
	booting := time.Now()
	if err := f.Boot(f.nodes); err != nil {
		t.Fatal(err)
	}
	t.Logf("Ready %s after the boot", time.Since(booting).Round(time.Millisecond))
	f.podsReady(t, "app=echo", pods, 30*time.Second)
	f.slices(t)
	f.reach(t)
}

// join: a node with a new number joins, and gets the pods of DaemonSets.
func (f *fixture) join(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	if err := f.Boot(f.nodes + 1); err != nil {
		t.Fatal(err)
	}
	f.podsReady(t, "app=host", f.nodes+1, 20*time.Second)
	f.hostNetwork(t)
	// What the other nodes know of the machine holds on.
	if out, err := f.Machine().Output(t.Context(), "ip", "-brief", "link", "show", "br0"); err != nil || !strings.Contains(out, " 02:00:ac:1e:00:01 ") {
		t.Errorf("the machine's link is %q, %v", out, err)
	}
}

// disconnect: a node without a network is NotReady, and Ready when it is back.
func (f *fixture) disconnect(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	if err := f.Disconnect(1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node1", ""} {
		eventually(t, 30*time.Second, func(ctx context.Context) error {
			down, err := f.unready(ctx)
			if err == nil && down != want {
				err = fmt.Errorf("not Ready: %q, want %q", down, want)
			}
			return err
		})
		if err := f.Connect(1); err != nil {
			t.Fatal(err)
		}
	}
}

// apiServer: without it, pods serve on; with it, all nodes are Ready again.
func (f *fixture) apiServer(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	all := f.list(t, "app=echo")
	if err := f.Stop(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	if _, err := f.client.Discovery().ServerVersion(); err == nil {
		t.Error("the API server answers")
	}
	answers(t, f.Node(1), all[0].Status.PodIP, 6000, all[0].Name)
	starting := time.Now()
	if err := f.Start(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready %s after its start", time.Since(starting).Round(time.Millisecond))
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		down, err := f.unready(ctx)
		if err == nil && down != "" {
			err = fmt.Errorf("not Ready: %q", down)
		}
		return err
	})
}

// deletion: no process and no link of a deleted pod is left.
func (f *fixture) deletion(t *testing.T) { //nolint:thelper // a step of TestLab, not a helper
	if _, err := f.Kubectl(t.Context(), "delete", "deployment/echo", "pod/reader", "--cascade=foreground", "--timeout=30s"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func(ctx context.Context) error {
		if left := f.list(t, "app=echo"); len(left) > 0 {
			return fmt.Errorf("%d pods are left", len(left))
		}
		for i := 1; i <= f.nodes; i++ {
			processes, err := f.Node(i).Output(ctx, "ps", "-e", "-o", "args=")
			if err != nil {
				return err
			}
			links, err := f.Node(i).Output(ctx, "ip", "-brief", "link")
			if err != nil {
				return err
			}
			if strings.Contains(processes, "/echo\n") || strings.Contains(links, "pod-") {
				return fmt.Errorf("left on node %d:\n%s%s", i, processes, links)
			}
		}
		return nil
	})
}

// TestOldCRDs: a cluster from before TCPRoute was v1.
func TestOldCRDs(t *testing.T) {
	l := start(t, lab.Options{Nodes: 0, CRDs: lab.CRDsV1Alpha2})
	out, err := l.Kubectl(t.Context(), "api-versions")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "gateway.networking.k8s.io/v1alpha2\n") {
		t.Errorf("v1alpha2 is not served:\n%s", out)
	}
	const route = `apiVersion: gateway.networking.k8s.io/%s
kind: TCPRoute
metadata: {name: route}
spec: {rules: [{backendRefs: [{name: backend, port: 80}]}]}
`
	if err := l.Apply(t.Context(), fmt.Sprintf(route, "v1")); err == nil {
		t.Error("TCPRoute v1 is accepted")
	}
	if err := l.Apply(t.Context(), fmt.Sprintf(route, "v1alpha2")); err != nil {
		t.Error(err)
	}
}

func (f *fixture) list(t *testing.T, selector string) []corev1.Pod {
	t.Helper()
	list, err := f.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (f *fixture) podsReady(t *testing.T, selector string, want int, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func(context.Context) error {
		count := 0
		all := f.list(t, selector)
		for i := range all {
			if ready(&all[i]) {
				count++
			}
		}
		if count != want || len(all) != want {
			return fmt.Errorf("%d of %d pods of %s are Ready, want %d", count, len(all), selector, want)
		}
		return nil
	})
}

func (f *fixture) readyEndpoints(ctx context.Context) (int, error) {
	slices, err := f.client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=echo"})
	if err != nil {
		return 0, err
	}
	count := 0
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				count++
			}
		}
	}
	return count, nil
}

// unready names the nodes that are not Ready.
func (f *fixture) unready(ctx context.Context) (string, error) {
	list, err := f.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var names []string
	for _, node := range list.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				names = append(names, node.Name)
			}
		}
	}
	return strings.Join(names, " "), nil
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// answers fails unless the pod answers on TCP and on UDP, and sees who asks.
func answers(t *testing.T, from *lab.Place, ip string, port uint16, pod string) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr(ip), port).String()
	for _, network := range []string{"tcp", "udp"} {
		line, local, err := ask(t.Context(), from, network, to)
		if err != nil {
			t.Errorf("%s %s: %v", network, to, err)
			continue
		}
		if !strings.HasPrefix(line, "pod="+pod+" ") || !strings.HasSuffix(line, "peer="+local+"\n") {
			t.Errorf("%s %s from %s: answer %q, want that of %s", network, to, local, line, pod)
		}
	}
}

func ask(ctx context.Context, from *lab.Place, network, to string) (line, local string, err error) {
	conn, err := from.Dial(ctx, network, to)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", "", err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return "", "", err
	}
	line, err = bufio.NewReaderSize(conn, 1<<16).ReadString('\n')
	return line, conn.LocalAddr().String(), err
}

// eventually tries until it succeeds.
func eventually(t *testing.T, limit time.Duration, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
