package iptables

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// BenchmarkProgram measures, in milliseconds, for n listeners with two endpoints each:
// a load into an empty kernel, a change of one endpoint, one listener more with client
// affinity and ten endpoints, and a pass without a change; a look when nobody changed
// rules, and one after somebody changed others; and what a new flow to the last listener
// costs, in nanoseconds, sending it included.
// To be run with -benchtime 1x.
func BenchmarkProgram(b *testing.B) {
	for _, v := range []Variant{NFT, Legacy} {
		for _, n := range []int{1, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", v, n), func(b *testing.B) {
				for b.Loop() {
					benchmarkProgram(b, v, n)
				}
			})
		}
	}
}

func benchmarkProgram(b *testing.B, v Variant, n int) {
	b.Helper()
	ns, c := inNamespace(b, v)
	p := newProgrammer(b, c)
	last := key("198.51.100.1 udp 65535") // behind the others of its bucket, the fullest there can be
	of := func(pods ...string) *rules.Frontend {
		f := &rules.Frontend{Owner: owner("ns/gw", "last", "ns/r"), Backends: []rules.Backend{backend("ns/svc", 1)}}
		for _, pod := range pods {
			f.Backends[0].Endpoints = append(f.Backends[0].Endpoints, local(pod))
		}
		return f
	}
	all := frontends{last: of("127.2.0.1:53", "127.2.0.2:53")}
	for k, f := range manyFrontends(n - 1).All() {
		all[rules.FrontendKey{Addr: last.Addr, Protocol: last.Protocol, Port: last.Port - 1 - (k.Port - 1024)}] = f
	}
	s := stateOf(all)
	measure := func(what string, s *rules.State) {
		start := time.Now()
		mustProgram(b, p, s)
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, what+"-ms")
	}
	measure("load", s)
	measure("change", s.Apply(frontends{last: of("127.2.0.1:53", "127.2.0.3:53")}, nil))
	clients := of("10.9.0.1:1", "10.9.0.2:1", "10.9.0.3:1", "10.9.0.4:1", "10.9.0.5:1", "10.9.0.6:1", "10.9.0.7:1", "10.9.0.8:1", "10.9.0.9:1", "10.9.0.10:1")
	clients.Select = rules.ClientHash
	measure("affinity", s.Apply(frontends{key("198.51.100.1 tcp 1"): clients}, nil))
	mustProgram(b, p, s)
	measure("idle", s)
	look := func(what string) {
		start := time.Now()
		if p.Disturbed() {
			b.Error("disturbed")
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, what+"-ms")
	}
	look("rest")
	command(b, ns, "for f in iptables ip6tables; do $f-"+string(v)+" -t nat -N OTHER; done")
	look("look")
	if err := ns.AddAddress("lo", netip.PrefixFrom(last.Addr, 32)); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(newFlows(b, ns, netip.AddrPortFrom(last.Addr, last.Port)), "flow-ns")
}

// BenchmarkExclusive measures what n exclusive addresses cost somebody else's new flow within
// the node, which passes nat once and filter twice, and how long it takes to load them and
// to change one. To be run with -benchtime 1x.
func BenchmarkExclusive(b *testing.B) {
	for _, v := range []Variant{NFT, Legacy} {
		for _, n := range []int{0, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", v, n), func(b *testing.B) {
				for b.Loop() {
					ns, c := inNamespace(b, v)
					p := newProgrammer(b, c)
					addrs := make([]netip.Addr, n+1)
					for i := range addrs {
						addrs[i] = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
					}
					mustProgram(b, p, manyFrontends(1))
					for _, what := range []struct {
						name string
						of   []netip.Addr
					}{{"load-ms", addrs[1:]}, {"change-ms", addrs[:n]}} {
						start := time.Now()
						mustProgram(b, p, manyFrontends(1).WithExclusive(what.of))
						b.ReportMetric(float64(time.Since(start).Microseconds())/1000, what.name)
					}
					b.ReportMetric(newFlows(b, ns, netip.MustParseAddrPort("127.0.0.1:9")), "flow-ns")
				}
			})
		}
	}
}

// newFlows returns how many nanoseconds one new flow takes to send its first datagram,
// which on the loopback is delivered by then.
func newFlows(b *testing.B, ns *netns.Namespace, to netip.AddrPort) float64 {
	b.Helper()
	const flows = 4000
	var took time.Duration
	err := ns.Do(func() error {
		for i := range flows {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 3, 0, 1}, Port: 20000 + i}); err != nil {
				return err
			}
			start := time.Now()
			err = unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
			took += time.Since(start)
			_ = unix.Close(fd)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return float64(took.Nanoseconds()) / flows
}
