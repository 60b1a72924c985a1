package nftables

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// forwarding is a node with 1000 listeners, and as many addresses of a pool, that passes on
// small UDP packets of somebody else.
type forwarding struct {
	*testing.B
	*netns.Lab
	p            *Programmer
	former       string // a file with formerShape
	source, sink int    // sockets; that of the pod is never emptied
}

// shapes are the rules without the filter chains, as they were before there were exclusive
// addresses, and as they are.
var shapes = []string{"without", "former", "with"}

func newForwarding(b *testing.B) *forwarding {
	b.Helper()
	lab, err := netns.NewLab(netns.PodSpec{Name: "pod", Number: 10})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = lab.Close() })
	c := DefaultConfig()
	c.NetNS = lab.Node.Handle()
	f := &forwarding{B: b, Lab: lab, p: newProgrammer(b, c), former: filepath.Join(b.TempDir(), "former.nft")}
	socket := func(ns *netns.Namespace, fd *int) error {
		return ns.Do(func() (err error) {
			*fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return err
		})
	}
	if err := errors.Join(
		socket(lab.Client, &f.source), socket(lab.Pods[0].Namespace, &f.sink),
		unix.Bind(f.sink, f.pod(9)), os.WriteFile(f.former, []byte(formerShape), 0o600),
	); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = errors.Join(unix.Close(f.source), unix.Close(f.sink)) })
	// All other ports: what arrives has cost what there is to find out.
	nft(b, lab.Pods[0].Namespace, "add table inet others; add chain inet others c { type filter hook prerouting priority raw; }; add rule inet others c udp dport != 9 drop")
	return f
}

func (f *forwarding) pod(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: f.Pods[0].Addr4.As4(), Port: port}
}

func (f *forwarding) send(port int) {
	if err := unix.Sendto(f.source, []byte("0123456789"), 0, f.pod(port)); err != nil {
		f.Fatal(err)
	}
}

func (f *forwarding) answer() {
	_, client, err := unix.Recvfrom(f.sink, make([]byte, 16), 0)
	if err == nil {
		err = unix.Sendto(f.sink, []byte("answer"), 0, client)
	}
	if err != nil {
		f.Fatal(err)
	}
}

// take has the node take a shape of the rules.
func (f *forwarding) take(shape string) {
	mustProgram(f, f.p, benchState(1000).WithExclusive(benchAddrs(64 * 1000)[:1000]))
	switch shape {
	case "without":
		nft(f, f.Node, "delete chain inet portway filter-prerouting; delete chain inet portway filter-output")
	case "former":
		nft(f, f.Node, "-f", f.former)
	}
}

func (f *forwarding) forget() {
	if err := f.Node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		f.Fatal(err)
	}
}

// What the chains cost that look for packets of no established flow: small UDP packets of
// somebody else are forwarded by three nodes in turn, which differ in their rules. They are
// of one flow that is answered, of one that is not, or each of a flow of its own. Of each
// turn the differences count, and of them the median, as other work on the machine is in
// all of a turn alike.
func BenchmarkForward(b *testing.B) {
	const turns, packets = 2000, 200
	for name, port := range map[string]func(packet int) int{
		"established": func(int) int { return 9 },
		"unanswered":  func(int) int { return 10 },
		"flows":       func(packet int) int { return 100 + packet },
	} {
		b.Run(name, func(b *testing.B) {
			var nodes []*forwarding
			for _, shape := range shapes {
				f := newForwarding(b)
				f.take(shape)
				nodes = append(nodes, f)
			}
			for b.Loop() {
				took := make([][]float64, len(shapes)) // ns of processor time a packet; from the second on how many more than the one before
				for turn := range turns {
					first := turn * packets % 20_000
					var now [3]float64
					for i := range nodes {
						i = (i + turn) % len(nodes)
						f := nodes[i]
						if first == 0 {
							f.forget()
							f.send(9)
							f.answer()
						}
						user, system := cpu(b)
						for n := range packets {
							f.send(port(first + n))
						}
						user2, system2 := cpu(b)
						now[i] = float64(user2+system2-user-system) / packets
					}
					for i, last := range []float64{0, now[0], now[1]} {
						took[i] = append(took[i], now[i]-last)
					}
				}
				for i, unit := range []string{"without-ns", "former-more-ns", "with-more-ns"} {
					slices.Sort(took[i])
					b.ReportMetric(took[i][turns/2], unit)
				}
			}
		})
	}
}
