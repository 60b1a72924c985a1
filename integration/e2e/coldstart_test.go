package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/integration/lab"
)

const (
	scaleGateways = 1000
	scaleRoutes   = 10  // of each Gateway
	scaleWrites   = 100 // a second, the controller's limit; its default would take twice as long
	scalePort     = 20000
)

// coldStarts: routes with a listener each, and routes that share one, of which only
// the oldest serves and the others get an Event.
func coldStarts(t *testing.T) {
	t.Helper()
	for _, listeners := range []int{scaleRoutes, 1} {
		t.Run(fmt.Sprintf("listeners-%d", listeners), func(t *testing.T) { coldStart(t, deployed(t, lab.CRDsStandard), listeners) })
	}
}

// coldStart: a controller starts on a cluster full of objects without a status. It is
// the real binary with the token of its service account, as a process of this machine
// so that its start and its memory can be seen.
func coldStart(t *testing.T, c *Cluster, listeners int) { //nolint:thelper // a case of TestBench
	const (
		limit  = 10 * time.Minute
		ratio  = 1.1
		memory = 300 << 20
		calm   = 5 * time.Second // longer than the controller rests
	)
	s := c.space(t, "scale")
	s.kubectl(t, "scale", "-n", System, "deployment/portway-controller", "--replicas=0")
	eventually(t, time.Minute, func() error { return c.noController(t.Context()) })
	s.fill(t, listeners)
	before := c.writes(t)
	controller := c.runController(t)
	var (
		last    time.Duration // when the last write was seen
		written float64
		m       metrics
	)
	eventually(t, limit, func() (err error) {
		if len(controller.ended) > 0 {
			t.Fatalf("the controller ended: %s/controller.log", c.Dir())
		}
		if m, err = c.scrape(t.Context(), controller.metrics); err != nil {
			return err
		}
		if now := m.sum("portway_controller_status_writes_total", `outcome="written"`); now != written {
			written, last = now, time.Since(controller.started)
		}
		pending := m.sum("portway_controller_pending_writes")
		if written == 0 || pending > 0 || time.Since(controller.started)-last < calm {
			return fmt.Errorf("%.0f statuses are written, %.0f are to be", written, pending)
		}
		return s.settled(t.Context())
	})
	after := c.writes(t)
	statuses, events := after.statuses-before.statuses, after.events-before.events
	ideal := statuses / scaleWrites
	peak, cpu := controller.usage(t)
	for _, f := range []figure.Figure{
		{Name: "settled", Unit: "s", Values: []float64{last.Seconds()}},
		{Name: "settled ÷ (statuses ÷ write limit)", Values: []float64{last.Seconds() / ideal}, Aim: figure.AtMost(ratio)},
		{Name: "statuses written", Values: []float64{statuses}},
		{Name: "Events written", Values: []float64{events}},
		{Name: "conflicts of writes", Values: []float64{m.sum("portway_controller_write_conflicts_total")}},
		{Name: "passes", Values: []float64{m.sum("portway_controller_pass_duration_seconds_count")}},
		{Name: "time of a pass, on average", Unit: "s", Values: []float64{
			m.sum("portway_controller_pass_duration_seconds_sum") / m.sum("portway_controller_pass_duration_seconds_count"),
		}},
		{Name: "peak memory", Unit: "B", Values: []float64{float64(peak)}, Aim: figure.AtMost(memory)},
		{Name: "CPU", Unit: "s", Values: []float64{cpu.Seconds()}},
	} {
		f.Name, f.Listeners = "cold controller, "+f.Name, scaleGateways*listeners
		f.Note = fmt.Sprintf("%d Gateways and %d routes without a status; --kube-api-qps=%d.", scaleGateways, scaleGateways*scaleRoutes, scaleWrites)
		record(t, f)
	}
}

func (c *Cluster) noController(ctx context.Context) error {
	pods, err := c.Kube.CoreV1().Pods(System).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	if err != nil {
		return err
	}
	if n := len(pods.Items); n > 0 {
		return fmt.Errorf("%d controllers are left", n)
	}
	return nil
}

// fill makes the objects.
func (s *space) fill(t *testing.T, listeners int) {
	t.Helper()
	s.apply(t, fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: pods}, spec: {ports: [{port: %d}]}}", echoPort))
	const makers = 8
	var all sync.WaitGroup
	for maker := range makers {
		all.Go(func() {
			for i := maker; i < scaleGateways; i += makers {
				if err := s.fillOne(t.Context(), i, listeners); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// fillOne makes one Gateway with its routes, which take its listeners in turn.
func (s *space) fillOne(ctx context.Context, i, listeners int) error {
	gw := &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("gw-%04d", i)},
		Spec:       gatewayv1.GatewaySpec{GatewayClassName: ClassName},
	}
	for j := range listeners {
		gw.Spec.Listeners = append(gw.Spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprint("tcp-", j)), Protocol: gatewayv1.TCPProtocolType,
			Port: gatewayv1.PortNumber(scalePort + i*listeners + j),
		})
	}
	if _, err := s.Gateway.GatewayV1().Gateways(s.name).Create(ctx, gw, metav1.CreateOptions{}); err != nil {
		return err
	}
	for j := range scaleRoutes {
		section := gw.Spec.Listeners[j%listeners].Name
		r := tcpRoute(fmt.Sprintf("%s-%d", gw.Name, j), gw.Name, &section)
		if _, err := s.Gateway.GatewayV1().TCPRoutes(s.name).Create(ctx, r, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// settled returns an error unless every Gateway is programmed as it is and every route
// has been judged.
func (s *space) settled(ctx context.Context) error {
	gateways, err := s.Gateway.GatewayV1().Gateways(s.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range gateways.Items {
		gw := &gateways.Items[i]
		if err := current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, ""); err != nil {
			return fmt.Errorf("%s: %w", gw.Name, err)
		}
		attached := 0
		for _, l := range gw.Status.Listeners {
			attached += int(l.AttachedRoutes)
		}
		if attached != scaleRoutes {
			return fmt.Errorf("%s has %d routes", gw.Name, attached)
		}
	}
	routes, err := s.Gateway.GatewayV1().TCPRoutes(s.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, r := range routes.Items {
		if len(r.Status.Parents) != 1 || !meta.IsStatusConditionTrue(r.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionAccepted)) {
			return fmt.Errorf("%s is not accepted: %+v", r.Name, r.Status.Parents)
		}
	}
	if len(gateways.Items) != scaleGateways || len(routes.Items) != scaleGateways*scaleRoutes {
		return fmt.Errorf("there are %d Gateways and %d routes", len(gateways.Items), len(routes.Items))
	}
	return nil
}

// writes are requests that the API server has answered.
type writes struct{ statuses, events float64 }

func (c *Cluster) writes(t *testing.T) writes {
	t.Helper()
	text, err := c.Kubectl(t.Context(), "get", "--raw", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMetrics(text)
	if err != nil {
		t.Fatal(err)
	}
	const name = "apiserver_request_total"
	return writes{
		statuses: m.sum(name, `group="gateway.networking.k8s.io"`, `subresource="status"`, `verb="PUT"`),
		events:   m.sum(name, `group="events.k8s.io"`),
	}
}

// runningController is one that this test started.
type runningController struct {
	command *exec.Cmd
	started time.Time
	ended   chan error
	metrics string // address
}

func (c *Cluster) runController(t *testing.T) *runningController {
	t.Helper()
	log, err := os.Create(filepath.Join(c.Dir(), "controller.log"))
	if err != nil {
		t.Fatal(err)
	}
	r := &runningController{metrics: "127.0.0.1:9618", ended: make(chan error, 1)}
	r.command, err = c.Machine().Command(context.WithoutCancel(t.Context()), filepath.Join(lab.CacheDir(), "product", "portway-controller"),
		"--kubeconfig", c.serviceAccount(t, "portway-controller"), "--namespace", System, "--bind-address", r.metrics,
		"--kube-api-qps", strconv.Itoa(scaleWrites), "--kube-api-burst", strconv.Itoa(scaleWrites))
	if err != nil {
		t.Fatal(err)
	}
	r.command.Stdout, r.command.Stderr = log, log
	r.started = time.Now()
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.command.Wait() }()
	t.Cleanup(func() {
		if err := errors.Join(r.command.Process.Signal(syscall.SIGTERM), <-r.ended, log.Close()); err != nil {
			t.Errorf("the controller did not end well: %v", err)
		}
	})
	return r
}

// usage returns the peak of the memory and the CPU time so far.
func (r *runningController) usage(t *testing.T) (peak int, cpu time.Duration) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", r.command.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(rest, "%d kB", &peak); err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond
	fields := strings.Fields(string(stat))
	for _, field := range fields[13:15] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		cpu += time.Duration(n) * tick
	}
	return peak << 10, cpu
}

// serviceAccount writes a kubeconfig with a token of a service account of the product.
func (c *Cluster) serviceAccount(t *testing.T, name string) string {
	t.Helper()
	expires := int64(3600)
	token, err := c.Kube.CoreV1().ServiceAccounts(System).CreateToken(t.Context(), name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &expires}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["lab"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "lab"}
	config.CurrentContext = "lab"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}
