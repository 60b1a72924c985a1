package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/conntrack"
	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/internal/ports"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// buffer is a stream that may be read while it is written.
type buffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

type started struct {
	kernel   *fakeProgrammer
	sysctls  *fakeSysctls
	out      *buffer
	print    chan os.Signal
	moved    chan struct{} // the host's addresses changed
	firewall *fakeFirewall
	env      environment
}

func testEnvironment() *started {
	s := &started{
		kernel:   &fakeProgrammer{programmed: make(chan *rules.State, 100)},
		sysctls:  &fakeSysctls{values: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}},
		out:      &buffer{},
		print:    make(chan os.Signal, 1),
		moved:    make(chan struct{}),
		firewall: &fakeFirewall{},
	}
	s.env = environment{
		out: s.out, sysctls: s.sysctls, printStatus: s.print, loop: syncloop.DefaultConfig(), clock: clock.RealClock{},
		addresses:     func() ([]netip.Addr, error) { return []netip.Addr{nodeIP}, nil },
		open:          func(context.Context, string, uint32) (backend, error) { return s.kernel, nil },
		connect:       func(string, string) (connection, error) { return connection{}, cluster.ErrNoCluster },
		openFirewall:  func(uint32) (opener, error) { return s.firewall, nil },
		openFlowtable: func(uint32, []string) offloader { return &fakeFlowtable{} },
		examineHost:   func(firewall.Traffic) []firewall.Finding { return nil },
		sweep:         func(context.Context, conntrack.Filter, func(rules.Flow) bool) (int, error) { return 0, nil },
		watchAddresses: func(ctx context.Context, changed func()) {
			for {
				select {
				case <-ctx.Done():
					return
				case <-s.moved:
					changed()
				}
			}
		},
	}
	return s
}

func options(manifests ...string) Options {
	o := DefaultOptions()
	o.NodeName = "demo-node"
	o.Manifests = manifests
	return o
}

func TestRunFromFileToKernelAndStatus(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	dir := t.TempDir()
	routes, err := os.ReadFile("../examples/tcp-routing.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "routes.yaml")
	save := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	save(string(routes))
	o := options(file, "../examples/tcp-routing-backends.yaml")
	o.StatusOut = filepath.Join(t.TempDir(), "status.yaml")
	s := testEnvironment()
	done := make(chan error, 1)
	go func() { done <- run(ctx, o, s.env) }()

	if state := <-s.kernel.programmed; state.Len() != 2 {
		t.Errorf("first state has %v: something was programmed before everything was read", state.Keys())
	}
	status := func() string {
		text, _ := os.ReadFile(o.StatusOut) // not there yet is empty
		return string(text)
	}
	eventually(t, "status file", func() bool { return strings.Contains(status(), "reason: Programmed") })

	save(strings.ReplaceAll(string(routes), "port: 8090", "port: 8091"))
	eventually(t, "edit in the kernel", func() bool {
		state := <-s.kernel.programmed
		return state.Frontend(rules.FrontendKey{Addr: nodeIP, Protocol: rules.TCP, Port: 8091}) != nil
	})
	s.print <- syscall.SIGUSR1
	eventually(t, "status on request", func() bool { return strings.Contains(s.out.String(), "name: my-tcp-gateway") })

	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.kernel.cleaned || !s.kernel.closed {
		t.Errorf("stopping: cleaned %v, closed %v", s.kernel.cleaned, s.kernel.closed)
	}
	if s.sysctls.values["net/ipv4/ip_forward"] != "0" {
		t.Error("a sysctl was set without being asked to")
	}
	if !strings.Contains(status(), "observedGeneration: 2") {
		t.Errorf("status of the edit:\n%s", status())
	}
	if temp, err := filepath.Glob(filepath.Join(filepath.Dir(o.StatusOut), ".*")); err != nil || len(temp) > 0 {
		t.Errorf("left behind: %v %v", temp, err)
	}
}

func TestRunFailsAtTheStart(t *testing.T) {
	tests := map[string]struct {
		change func(*Options, *started)
		want   string
	}{
		"no such path": {
			func(o *Options, _ *started) { o.Manifests = []string{"nowhere.yaml"} },
			"read manifests nowhere.yaml: no such file or directory",
		},
		"no rights": {
			func(_ *Options, s *started) {
				s.env.open = func(context.Context, string, uint32) (backend, error) {
					return nil, errors.New("nftables: not permitted")
				}
			},
			"nftables: not permitted",
		},
		"sysctl": {
			func(o *Options, s *started) { o.SetSysctls, s.sysctls.readonly = true, true },
			"set net.ipv4.ip_forward=1: permission denied; run as root, or set it yourself and leave --set-sysctls out",
		},
		"addresses": {
			func(_ *Options, s *started) {
				s.env.addresses = func() ([]netip.Addr, error) { return nil, errors.New("list addresses: no") }
			},
			"find the node's addresses: list addresses: no",
		},
		"nothing to serve": {
			func(o *Options, s *started) { o.Manifests, s.env.connect = nil, connect },
			"nothing to serve: no kubeconfig is given and this is not a pod of a cluster; name files or directories with API objects with --manifests, or a cluster with --kubeconfig",
		},
		"no such kubeconfig": {
			func(o *Options, s *started) { o.Manifests, o.Kubeconfig, s.env.connect = nil, "nowhere", connect },
			"read kubeconfig nowhere: stat nowhere: no such file or directory",
		},
		"health endpoint": {
			func(o *Options, _ *started) { o.HealthBindAddress = "192.0.2.1:1" },
			"open the health endpoint: listen tcp 192.0.2.1:1: bind: cannot assign requested address; choose another --health-bind-address",
		},
		"options": {
			func(o *Options, _ *started) { o.NodeAddresses = []string{"here"} },
			`--node-address: node address "here": must be an address of this node at which others reach it, such as 192.0.2.1 or 2001:db8::1`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, ctx := ktesting.NewTestContext(t)
			o, s := options(guide...), testEnvironment()
			test.change(&o, s)
			if err := run(ctx, o, s.env); err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %s", err, test.want)
			}
			if len(s.kernel.states) > 0 || s.sysctls.values["net/ipv4/ip_forward"] != "0" {
				t.Error("half of it was done")
			}
		})
	}
}

func TestRunCleanup(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	o, s := options(), testEnvironment()
	o.Cleanup = true
	if err := run(ctx, o, s.env); err != nil {
		t.Fatal(err)
	}
	if !s.kernel.cleaned || !s.kernel.closed || len(s.kernel.states) > 0 {
		t.Errorf("kernel %+v", s.kernel)
	}
}

func TestRunCleanupOfACluster(t *testing.T) {
	unreachable := fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
	const remains = "the kernel is clean, but NodeReport demo-node and Lease portway-system/agent-demo-node may still say that its rules stand: %s; " +
		"remove them: kubectl delete --ignore-not-found nodereports.portway.dev demo-node; kubectl --namespace portway-system delete --ignore-not-found lease agent-demo-node"
	tests := map[string]struct {
		prepare func(*started, *Options, *fakeCluster)
		want    string
		stay    bool
	}{
		"there":       {func(*started, *Options, *fakeCluster) {}, "", false},
		"gone before": {func(_ *started, _ *Options, c *fakeCluster) { c.reports.edit("demo-node", nil) }, "", false},
		"API server away": {
			func(_ *started, _ *Options, c *fakeCluster) { c.fail(unreachable) },
			fmt.Sprintf(remains, unreachable), true,
		},
		"bad kubeconfig": {
			func(s *started, o *Options, _ *fakeCluster) { o.Kubeconfig, s.env.connect = "nowhere", connect },
			fmt.Sprintf(remains, "read kubeconfig nowhere: stat nowhere: no such file or directory"), true,
		},
		"kernel not cleaned": {
			func(s *started, _ *Options, _ *fakeCluster) { s.kernel.err = errors.New("busy") },
			"clean up: busy", true,
		},
		"of files": {func(_ *started, o *Options, _ *fakeCluster) { o.Manifests = guide }, "", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, ctx := ktesting.NewTestContext(t)
			o, s, c := options(), testEnvironment(), newFakeCluster(t)
			o.Cleanup, o.Namespace = true, "portway-system"
			s.env.connect = func(string, string) (connection, error) { return connection{Clients: c.clients()}, nil }
			leases := c.core.CoordinationV1().Leases("portway-system")
			for _, node := range []string{"demo-node", "other"} {
				if _, err := c.reports.Create(ctx, &v1alpha1.NodeReport{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				if _, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "agent-" + node}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			test.prepare(s, &o, c)
			err := run(ctx, o, s.env)
			if (err == nil) != (test.want == "") || err != nil && err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if !s.kernel.cleaned || !s.kernel.closed {
				t.Errorf("cleaned %v, closed %v", s.kernel.cleaned, s.kernel.closed)
			}
			c.fail(nil)
			left, err := leases.List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			stays := len(left.Items) == 2 && c.reports.held["demo-node"] != nil
			gone := len(left.Items) == 1 && left.Items[0].Name == "agent-other" && c.reports.held["demo-node"] == nil
			if c.reports.held["other"] == nil || test.stay && !stays || !test.stay && !gone {
				t.Errorf("left %v %v", left.Items, c.reports.held)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"a cluster":     {"", ""},
		"two sources":   {"--manifests a --kubeconfig b", "--kubeconfig and --manifests exclude each other: serve a cluster or files"},
		"two reporters": {"--print-status", "--status-out and --print-status need --manifests: in a cluster the controller writes the statuses into the objects"},
		"renewals":      {"--lease-renew-interval 10ms", "--lease-renew-interval 10ms: must be at least 1s"},
		"good":          {"--manifests a --manifests b,c --node-name n --ct-mark 0x2000 --node-ports 22,80-90", ""},
		"iptables":      {"--manifests a --backend iptables", ""},
		"other backend": {"--manifests a --backend ebpf", `--backend "ebpf": must be auto, nftables or iptables`},
		"two bits":      {"--manifests a --ct-mark 0x3", "--ct-mark 0x3: must be exactly one bit, such as 0x1000"},
		"no mark":       {"--manifests a --ct-mark red", `invalid argument "red" for "--ct-mark" flag: "red": must be a number of 32 bits, such as 0x1000`},
		"ports":         {"--manifests a --node-ports 90-80", `invalid argument "90-80" for "--node-ports" flag: "90-80": must be a port or a range such as 2379-2380`},
		"status among manifests": {
			"--manifests d --status-out d/status.yaml",
			"--status-out d/status.yaml lies in --manifests d and would be read as a manifest: put it elsewhere",
		},
		"cleanup needs no manifests": {"--cleanup", ""},
		"cleanup after agents":       {"--cleanup --cleanup-after portway-agent", ""},
		"after, without cleanup":     {"--manifests a --cleanup-after portway-agent", "--cleanup-after is for --cleanup"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := DefaultOptions()
			o.NodeName = "n"
			fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.AddFlags(fs)
			err := fs.Parse(strings.Fields(test.args))
			if err == nil {
				err = o.Validate()
			}
			if (err == nil) != (test.want == "") || err != nil && err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestOptionsFromTheEnvironment(t *testing.T) {
	t.Setenv("NODE_NAME", "n1")
	t.Setenv("POD_NAMESPACE", "here")
	if o := DefaultOptions(); o.NodeName != "n1" || o.Namespace != "here" {
		t.Errorf("node %q, namespace %q", o.NodeName, o.Namespace)
	}
	t.Setenv("NODE_NAME", "")
	t.Setenv("POD_NAMESPACE", "")
	if o := DefaultOptions(); o.NodeName == "" || o.Namespace != "portway-system" {
		t.Errorf("node %q, namespace %q", o.NodeName, o.Namespace)
	}
}

func TestHealthAddress(t *testing.T) {
	tests := []struct {
		manifests, flag, want string
	}{{"", "", ":9617"}, {"", "0", ""}, {"f", "", ""}, {"f", ":1", ":1"}, {"f", "0", ""}, {"", "127.0.0.1:1", "127.0.0.1:1"}}
	for _, test := range tests {
		o := Options{HealthBindAddress: test.flag}
		if test.manifests != "" {
			o.Manifests = []string{test.manifests}
		}
		if got := o.healthAddress(); got != test.want {
			t.Errorf("manifests %q, flag %q: %q, want %q", test.manifests, test.flag, got, test.want)
		}
	}
}

func TestOptionValues(t *testing.T) {
	o := DefaultOptions()
	if got := o.NodePorts.String(); got != "22,2379-2380,6443,7946,9617,10250-10259" {
		t.Errorf("node ports %s", got)
	}
	if err := o.NodePorts.Set(" 22, 80-90"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ports.Ranges{{First: 22, Last: 22}, {First: 80, Last: 90}}, o.NodePorts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := o.NodePorts.Set(""); err != nil || len(o.NodePorts) != 0 {
		t.Errorf("no ports: %v %v", o.NodePorts, err)
	}
	if diff := cmp.Diff(topology.DefaultConfig().NodePorts, []topology.PortRange(DefaultOptions().NodePorts)); diff != "" {
		t.Errorf("defaults were changed:\n%s", diff)
	}
}
