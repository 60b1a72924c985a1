package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2/ktesting"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

// clusterBench is an agent in a cluster, in a bubble with a clock of its own.
type clusterBench struct {
	*started
	t       *testing.T
	cluster *fakeCluster
	done    chan error
	options Options

	mu   sync.Mutex // guards host
	host []netip.Addr
}

// bridgeIP is an address of the container network.
var bridgeIP = netip.MustParseAddr("10.244.0.1")

// inCluster runs a test with an agent that begins once prepare is done.
func inCluster(t *testing.T, prepare func(*clusterBench), test func(*clusterBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &clusterBench{started: testEnvironment(), t: t, cluster: newFakeCluster(t), done: make(chan error, 1), options: options()}
		b.kernel.programmed = nil
		b.options.Version, b.options.Namespace, b.options.HealthBindAddress = "v1.2.3", "portway-system", "0"
		b.env.connect = func(string, string) (connection, error) { return connection{b.cluster.clients(), func() {}}, nil }
		// The host has an address that the Node does not list.
		b.host = []netip.Addr{nodeIP, bridgeIP}
		b.env.addresses = func() ([]netip.Addr, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.host, nil
		}
		if prepare != nil {
			prepare(b)
		}
		_, ctx := ktesting.NewTestContext(t)
		ctx, cancel := context.WithCancel(ctx)
		go func() { b.done <- run(ctx, b.options, b.env) }()
		t.Cleanup(func() {
			cancel()
			if err := <-b.done; err != nil {
				t.Errorf("run: %v", err)
			}
			if b.kernel.cleaned || !b.kernel.closed {
				t.Errorf("stopping: cleaned %v, closed %v", b.kernel.cleaned, b.kernel.closed)
			}
		})
		synctest.Wait()
		test(b)
	})
}

func (b *clusterBench) settle(d time.Duration) {
	time.Sleep(d) // of the bubble: costs nothing
	synctest.Wait()
}

// hostMoves gives the host other addresses.
func (b *clusterBench) hostMoves(addresses ...netip.Addr) {
	b.mu.Lock()
	b.host = addresses
	b.mu.Unlock()
	b.moved <- struct{}{}
	b.settle(50 * time.Millisecond)
}

func (b *clusterBench) churn(addresses ...string) {
	b.t.Helper()
	if _, err := b.cluster.core.DiscoveryV1().EndpointSlices("default").Update(b.t.Context(), endpointSlice(addresses...), metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	b.settle(time.Second)
}

// renewals counts the attempts to renew the Lease.
func (b *clusterBench) renewals() (n int) {
	for _, action := range b.cluster.core.Actions() {
		if action.GetResource().Resource == "leases" && action.GetVerb() == "update" {
			n++
		}
	}
	return n
}

func TestClusterFromAPIToKernelAndReport(t *testing.T) {
	inCluster(t, func(b *clusterBench) { b.cluster.createGuide(t) }, func(b *clusterBench) {
		b.settle(time.Second)
		if n := b.kernel.all()[0].Len(); n != 1 {
			t.Errorf("first state has %d frontends: something was programmed before everything was read", n)
		}
		if got, want := b.kernel.last().Keys(), []rules.FrontendKey{fooKey}; !slices.Equal(got, want) {
			t.Errorf("frontends %v, want %v", got, want)
		}
		if got, want := endpoints(b.kernel.last().Frontend(fooKey)), []string{"10.0.0.1:6000"}; !slices.Equal(got, want) {
			t.Errorf("endpoints %v, want %v", got, want)
		}
		r := b.cluster.reports.report("demo-node")
		if len(r.Committed) != 1 || r.Gateways != 1 || r.Failing != 0 || !slices.Equal(r.Addresses, []string{"192.0.2.1"}) ||
			r.Backend != "nftables" || r.AgentVersion != "v1.2.3" || r.Version != 1 {
			t.Errorf("report %+v", r)
		}
		if got := b.cluster.reports.written(); !slices.Equal(got, []string{"create demo-node"}) {
			t.Errorf("writes %v", got)
		}

		// Endpoint churn reaches the kernel and nothing else.
		b.churn("10.0.0.2")
		b.churn("10.0.0.3", "10.0.0.4")
		if got := endpoints(b.kernel.last().Frontend(fooKey)); !slices.Equal(got, []string{"10.0.0.3:6000", "10.0.0.4:6000"}) {
			t.Errorf("endpoints %v", got)
		}
		b.settle(10 * time.Minute)
		if got := b.cluster.reports.written(); len(got) != 0 {
			t.Errorf("endpoint churn wrote %v", got)
		}

		// A removed report comes back, and an edit is reported.
		b.cluster.reports.edit("demo-node", nil)
		b.settle(reportCheckInterval)
		if got := b.cluster.reports.written(); !slices.Equal(got, []string{"create demo-node"}) {
			t.Errorf("writes %v", got)
		}
		gateways := b.cluster.gateway.GatewayV1().Gateways("default")
		web, err := gateways.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		web.Spec.Listeners[0].Port = 8090
		if _, err := gateways.Update(t.Context(), web, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.settle(20 * time.Millisecond) // at once when idle
		if got := b.cluster.reports.written(); !slices.Equal(got, []string{"update demo-node"}) || b.kernel.last().Frontend(barKey) == nil {
			t.Errorf("writes %v, frontends %v", got, b.kernel.last().Keys())
		}
	})
}

func TestClusterHeartbeat(t *testing.T) {
	inCluster(t, nil, func(b *clusterBench) {
		before := b.renewals()
		b.settle(time.Minute)
		if n := b.renewals() - before; n != 6 {
			t.Errorf("%d renewals in a minute, want 6", n)
		}
		lease, err := b.cluster.core.CoordinationV1().Leases("portway-system").Get(t.Context(), "agent-demo-node", metav1.GetOptions{})
		if err != nil || lease.OwnerReferences[0].UID != "uid-of-the-node" {
			t.Errorf("lease %+v: %v", lease, err)
		}
	})
}

func TestClusterServesWhileTheAPIIsAway(t *testing.T) {
	inCluster(t, func(b *clusterBench) { b.cluster.createGuide(t) }, func(b *clusterBench) {
		b.settle(time.Second)
		b.cluster.fail(fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED))
		passes := len(b.kernel.all())
		b.settle(10 * time.Minute)
		if b.kernel.last().Frontend(fooKey) == nil || len(b.kernel.all()) < passes+10 {
			t.Errorf("%d passes, frontends %v", len(b.kernel.all())-passes, b.kernel.last().Keys())
		}
		// What changed meanwhile is not seen, and nothing of it is lost.
		resource := discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
		if err := b.cluster.core.Tracker().Update(resource, endpointSlice("10.0.0.9"), "default"); err != nil {
			t.Fatal(err)
		}
		b.settle(time.Minute)
		if got := endpoints(b.kernel.last().Frontend(fooKey)); got[0] != "10.0.0.1:6000" {
			t.Errorf("endpoints %v: the watches were not cut", got)
		}
		b.cluster.fail(nil)
		before := b.renewals()
		b.settle(5 * time.Second)
		if b.renewals() == before {
			t.Error("no heartbeat 5 s after the API server is back")
		}
		b.settle(6 * time.Second) // a pause of ours, and the informer's before its next list
		if got := endpoints(b.kernel.last().Frontend(fooKey)); got[0] != "10.0.0.9:6000" {
			t.Errorf("endpoints %v 11 s after the API server is back", got)
		}
		b.settle(10 * time.Second)
		b.cluster.relist(t, otherIP)
		b.hostMoves(otherIP)
		if b.kernel.last().Frontend(rules.FrontendKey{Addr: otherIP, Protocol: rules.TCP, Port: 8080}) == nil {
			t.Error("the Node is not followed any more")
		}
	})
}

// TestClusterFollowsTheNodesAddresses: the host's address changes, the Node follows, or
// the other way round.
func TestClusterFollowsTheNodesAddresses(t *testing.T) {
	ipv6 := netip.MustParseAddr("2001:db8::1")
	tests := map[string]struct{ also []netip.Addr }{"single stack": {}, "dual stack": {[]netip.Addr{ipv6}}}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			prepare := func(b *clusterBench) {
				b.cluster.createGuide(t)
				b.host = append(b.host, test.also...)
				b.cluster.relist(t, append([]netip.Addr{nodeIP}, test.also...)...)
			}
			inCluster(t, prepare, func(b *clusterBench) {
				serves := func(when string, addresses ...netip.Addr) {
					t.Helper()
					var got []netip.Addr
					for _, key := range b.kernel.last().Keys() {
						got = append(got, key.Addr)
					}
					if want := slices.Concat(addresses, test.also); !slices.Equal(got, want) {
						t.Errorf("%s: served at %v, want %v", when, got, want)
					}
				}
				b.settle(time.Second)
				serves("start", nodeIP)
				b.hostMoves(append([]netip.Addr{otherIP, bridgeIP}, test.also...)...)
				serves("the host's has changed")
				b.settle(10 * time.Minute)
				serves("the Node is late")
				b.cluster.relist(t, append([]netip.Addr{otherIP}, test.also...)...)
				b.settle(50 * time.Millisecond)
				serves("the Node lists it", otherIP)
				b.cluster.relist(t, append([]netip.Addr{nodeIP, otherIP}, test.also...)...)
				b.hostMoves(append([]netip.Addr{nodeIP, otherIP, bridgeIP}, test.also...)...)
				serves("a second one", nodeIP, otherIP)
			})
		})
	}
}

func TestClusterFindingsFollowTheHost(t *testing.T) {
	prepare := func(b *clusterBench) {
		b.cluster.createGuide(t)
		b.sysctls.readonly = true
		b.options.SetSysctls = true // cannot work here, and is no reason not to serve
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Second)
		const want = "this host does not forward IPv4 packets, so that endpoints elsewhere cannot be reached, and --set-sysctls does not help here (permission denied); run: sysctl -w net.ipv4.ip_forward=1"
		findings := func() []v1alpha1.Finding { return b.cluster.reports.report("demo-node").Findings }
		if got := findings(); len(got) != 1 || got[0].Reason != "PacketForwarding" || got[0].Message != want {
			t.Errorf("findings %+v, want %s", got, want)
		}
		if b.kernel.last().Frontend(fooKey) == nil {
			t.Error("not served")
		}
		b.sysctls.set("net/ipv4/ip_forward", "1")
		b.settle(31 * time.Second)
		if got := findings(); len(got) != 0 {
			t.Errorf("findings %+v after the cure", got)
		}
		b.sysctls.set("net/ipv4/ip_forward", "0")
		b.settle(31 * time.Second)
		if got := findings(); len(got) != 1 {
			t.Errorf("findings %+v after it was turned off", got)
		}
		b.cluster.relist(t, netip.MustParseAddr("2001:db8::1"))
		b.hostMoves(netip.MustParseAddr("2001:db8::1"))
		b.settle(time.Second)
		if got := findings(); len(got) != 1 || !strings.Contains(got[0].Message, "IPv6") {
			t.Errorf("findings %+v of a host with IPv6 only", got)
		}
	})
}

// TestClusterNodeThatIsUnable: a kernel that lacks something is named at every
// Gateway, instead of an agent that starts again and again.
func TestClusterNodeThatIsUnable(t *testing.T) {
	prepare := func(b *clusterBench) {
		b.cluster.createGuide(t)
		b.kernel.closed = true // it was never open
		b.env.open = func(context.Context, string, uint32) (backend, error) {
			return nil, &nftables.UnableError{Feature: "random numbers in rules", Cure: "module nft_numgen", Kernel: "5.4.0", Err: unix.ENOENT}
		}
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Second)
		const want = "kernel 5.4.0 has no random numbers in rules (module nft_numgen)"
		r := b.cluster.reports.report("demo-node")
		if len(r.Committed) != 0 || r.Failing != 1 || len(r.Errors) != 1 || !strings.Contains(r.Errors[0].Message, want) {
			t.Errorf("report %+v, want an error with %q", r, want)
		}
	})
}

// TestClusterTellsLimitations: what works less well on this kernel, or with this backend, is
// a finding.
func TestClusterTellsLimitations(t *testing.T) {
	for backend, reason := range map[string]string{backendNFTables: "KernelLimitation", backendIPTables: "IPTablesLimitation"} {
		t.Run(backend, func(t *testing.T) {
			prepare := func(b *clusterBench) {
				b.cluster.createGuide(t)
				b.sysctls.set("net/ipv4/ip_forward", "1")
				b.kernel.name, b.kernel.limits = backend, []string{"clients time out"}
			}
			inCluster(t, prepare, func(b *clusterBench) {
				b.settle(time.Second)
				want := []v1alpha1.Finding{{Reason: reason, Message: "clients time out"}}
				if got := b.cluster.reports.report("demo-node").Findings; !slices.Equal(got, want) {
					t.Errorf("findings %+v, want %+v", got, want)
				}
			})
		})
	}
}

func TestClusterStartsWithoutTheAPI(t *testing.T) {
	prepare := func(b *clusterBench) {
		b.cluster.createGuide(t)
		b.cluster.fail(fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED))
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(10 * time.Minute)
		if len(b.kernel.all()) != 0 {
			t.Fatal("programmed without having read anything: the rules of the agent before are gone")
		}
		b.cluster.fail(nil)
		b.settle(time.Minute)
		if len(b.kernel.all()) == 0 || b.kernel.all()[0].Frontend(fooKey) == nil {
			t.Error("not programmed after the API server is back")
		}
	})
}

func TestClusterWaitsForItsNode(t *testing.T) {
	prepare := func(b *clusterBench) {
		b.cluster.createGuide(t)
		b.options.NodeName = "other"
	}
	inCluster(t, prepare, func(b *clusterBench) {
		b.settle(time.Hour)
		if len(b.kernel.all()) != 0 || len(b.cluster.reports.written()) != 0 {
			t.Error("programmed as a node that does not exist")
		}
	})
}

func TestClusterHealthEndpoint(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	o := options(guide...)
	o.HealthBindAddress = "127.0.0.1:0"
	listener, err := o.listenHealth()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveHealth(ctx, listener, healthHandler(b.progress, b.metrics))
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String()+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || string(text) != "ok\n" {
		t.Errorf("%q %v", text, err)
	}
	cancel()
	<-done
}
