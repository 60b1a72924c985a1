package bench

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules/nftables"
	"github.com/portway-dev/portway/topology"
)

func TestMain(m *testing.M) { netns.Main(m) }

var sizes = []int{10, 1000, 10_000}

// path is the agent's pass, taken apart: manifests, decision, forwarding state and
// kernel.
type path struct {
	store      *cluster.Store
	graph      *topology.Graph
	forwarder  *topology.Forwarder
	programmer *nftables.Programmer
}

func newPath(b *testing.B) *path {
	b.Helper()
	config := nftables.DefaultConfig()
	config.NetNS = netns.ForTest(b, "node").Handle()
	programmer, err := nftables.New(config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := programmer.Close(); err != nil {
			b.Error(err)
		}
	})
	node := topology.Node{Name: "node", Addresses: []netip.Addr{netns.NodeAddr4}}
	return &path{store: cluster.NewStore(), forwarder: topology.NewForwarder(node), programmer: programmer}
}

// parse reads the manifests as the agent does at its start.
func (p *path) parse(b *testing.B, manifests []string) {
	b.Helper()
	config := cluster.DefaultManifestsConfig()
	config.Paths = manifests
	if _, err := cluster.NewManifests(b.Context(), config, p.store); err != nil {
		b.Fatal(err)
	}
}

func (p *path) build() {
	update := p.store.Next()
	resolution := topology.Resolve(*update.Snapshot, topology.DefaultConfig())
	p.graph = resolution.Build(cluster.Assign(resolution, []netip.Addr{netns.NodeAddr4}))
	p.forwarder.SetGraph(p.graph)
	for service, slices := range update.Slices {
		p.forwarder.SetEndpointSlices(service, slices)
	}
}

func (p *path) program(b *testing.B) {
	b.Helper()
	results, err := p.programmer.Program(b.Context(), p.forwarder.State())
	if err != nil {
		b.Fatal(err)
	}
	for key, gateway := range p.graph.Gateways {
		if results.Committed[key.String()] != gateway.Digest || gateway.Digest == "" {
			b.Fatalf("Gateway %s: committed %q, want %q", key, results.Committed[key.String()], gateway.Digest)
		}
	}
}

// BenchmarkColdStart takes apart what an agent does at its start in an empty
// kernel. "State → committed" is program-ms.
func BenchmarkColdStart(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			manifests := writeManifests(b, n)
			spent := map[string]time.Duration{}
			var p *path
			step := func(name string, f func()) {
				begin := time.Now()
				f()
				spent[name] += time.Since(begin)
			}
			for b.Loop() {
				b.StopTimer()
				p = newPath(b)
				b.StartTimer()
				step("parse-ms", func() { p.parse(b, manifests) })
				step("build-ms", p.build)
				step("forward-ms", func() { p.forwarder.State() })
				step("program-ms", func() { p.program(b) })
			}
			if got := p.forwarder.State().Len(); got != n {
				b.Fatalf("%d frontends, want %d", got, n)
			}
			for name, d := range spent {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name)
			}
		})
	}
}

// BenchmarkEndpointChange is the time from a changed EndpointSlice to its
// committed batch: one of ten endpoints replaced, on a loaded node.
func BenchmarkEndpointChange(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			p := newPath(b)
			p.parse(b, writeManifests(b, n))
			p.build()
			p.program(b)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				slice := endpointSlice(i%n, i/n+1)
				begin := time.Now()
				if err := p.store.Put(slice); err != nil {
					b.Fatal(err)
				}
				for service, slices := range p.store.Next().Slices {
					p.forwarder.SetEndpointSlices(service, slices)
				}
				results, err := p.programmer.Program(b.Context(), p.forwarder.State())
				took = append(took, time.Since(begin))
				if err != nil || results.Operations != 4 {
					b.Fatalf("%d operations, want a slot and a member of the set of endpoints replaced: %v", results.Operations, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
