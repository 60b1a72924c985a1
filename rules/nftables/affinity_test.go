package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// jhash is the kernel's, of keys of 4 and 16 bytes (include/linux/jhash.h).
func jhash(key []byte, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(len(key)) + seed
	b, c := a, a
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(key[i:]) }
	rol := bits.RotateLeft32
	if len(key) > 12 {
		a, b, c = a+word(0), b+word(4), c+word(8)
		a = (a - c) ^ rol(c, 4)
		c += b
		b = (b - a) ^ rol(a, 6)
		a += c
		c = (c - b) ^ rol(b, 8)
		b += a
		a = (a - c) ^ rol(c, 16)
		c += b
		b = (b - a) ^ rol(a, 19)
		a += c
		c = (c - b) ^ rol(b, 4)
		b += a
	}
	a += word(len(key) - 4)
	return final(a, b, c)
}

func final(a, b, c uint32) uint32 {
	rol := bits.RotateLeft32
	c = (c ^ b) - rol(b, 14)
	a = (a ^ c) - rol(c, 11)
	b = (b ^ a) - rol(a, 25)
	c = (c ^ b) - rol(b, 16)
	a = (a ^ c) - rol(c, 4)
	b = (b ^ a) - rol(a, 14)
	return (c ^ b) - rol(b, 24)
}

// clientEndpoint is where the layout sends a client: the kernel scales the hash to the
// number of slots (reciprocal_scale, net/netfilter/nft_hash.c).
func clientEndpoint(slots []rules.Slot, client netip.Addr) netip.AddrPort {
	hash := jhash(client.AsSlice(), flowSeed)
	return slots[uint64(hash)*uint64(len(slots))>>32].Endpoint.Addr
}

// ask opens a connection and returns the number of the server that took it.
func ask(ns *netns.Namespace, client netip.Addr, to netip.AddrPort) (number int, err error) {
	err = ns.Do(func() error {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 0))}
		conn, err := dialer.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // no TIME_WAIT
			return err
		}
		var answer [1]byte
		if _, err := conn.Read(answer[:]); err != nil {
			return err
		}
		number = int(answer[0])
		return nil
	})
	return number, err
}

// Every client goes where its hash says, each time, on every node.
func TestClientsGoWhereTheLayoutSays(t *testing.T) {
	families := map[string]struct {
		to               netip.AddrPort
		server, client   func(i int) netip.Addr
		servers, clients int
	}{
		"IPv4": {
			netip.AddrPortFrom(frontKey.Addr, frontKey.Port),
			func(i int) netip.Addr { return serverAddr(i).Addr() },
			func(i int) netip.Addr { return addr4("127.3.0.0", i*251+1) }, servers, 150,
		},
		"IPv6": {
			netip.MustParseAddrPort("[fd00:1::1]:80"),
			func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:2::%x", i+1)) },
			func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:3::%x:%x", i*977, i+1)) }, 3, 50,
		},
	}
	for name, f := range families {
		t.Run(name, func(t *testing.T) {
			k := rules.FrontendKey{Addr: f.to.Addr(), Protocol: rules.TCP, Port: f.to.Port()}
			frontend := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Select: rules.ClientHash, Backends: []rules.Backend{{Ref: "ns/a", Weight: 2}, {Ref: "ns/b", Weight: 1}}}
			for i := range f.servers {
				b := &frontend.Backends[i%2]
				b.Endpoints = append(b.Endpoints, rules.Endpoint{Addr: netip.AddrPortFrom(f.server(i), 6000), Local: true})
			}
			slots := rules.NewLayout(frontend, nil).Slots
			counts := make(map[netip.AddrPort]int)
			for node := range 2 {
				ns, c := inNamespace(t)
				if name == "IPv6" {
					addresses := []netip.Prefix{netip.PrefixFrom(f.to.Addr(), 128)}
					for i := range f.clients {
						addresses = append(addresses, netip.PrefixFrom(f.client(i), 128))
					}
					for i := range f.servers {
						addresses = append(addresses, netip.PrefixFrom(f.server(i), 128))
					}
					if err := ns.AddAddress("lo", addresses...); err != nil {
						t.Fatal(err)
					}
				}
				for i := range f.servers {
					serveAt(t, ns, netip.AddrPortFrom(f.server(i), 6000), i)
				}
				p := newProgrammer(t, c)
				here := frontend
				if node == 1 { // with another history, and the endpoints in another order
					other := *frontend
					other.Backends = slices.Clone(frontend.Backends)
					other.Backends[0].Endpoints = slices.Clone(other.Backends[0].Endpoints)
					slices.Reverse(other.Backends[0].Endpoints)
					fewer := other
					fewer.Backends = other.Backends[:1]
					mustProgram(t, p, stateOf(map[rules.FrontendKey]*rules.Frontend{k: &fewer}))
					here = &other
				}
				mustProgram(t, p, stateOf(map[rules.FrontendKey]*rules.Frontend{k: here}))
				for i := range f.clients {
					for range 2 {
						number, err := ask(ns, f.client(i), f.to)
						if err != nil {
							t.Fatal(err)
						}
						got, want := netip.AddrPortFrom(f.server(number), 6000), clientEndpoint(slots, f.client(i))
						if got != want {
							t.Fatalf("node %d: %s went to %s, want %s", node, f.client(i), got, want)
						}
						counts[got]++
					}
				}
			}
			total := make(map[string]int)
			for _, b := range frontend.Backends {
				for _, e := range b.Endpoints {
					total[b.Ref] += counts[e.Addr] / 4 // each client was there four times
				}
			}
			share(t, "backend of weight 2", total["ns/a"], f.clients, 2.0/3)
		})
	}
}

// The refused share of a TCP listener is refused, not dropped, and not always to the
// same clients; the rest of a client's connections stay at one endpoint.
func TestClientsAreRefusedByDraw(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Select: rules.ClientHash, Backends: []rules.Backend{
		backend("ns/a", 7, local(serverAddr(0).String(), ""), local(serverAddr(1).String(), "")), backend("ns/gone", 3),
	}}
	mustProgram(t, newProgrammer(t, c), stateOf(map[rules.FrontendKey]*rules.Frontend{frontKey: f}))
	slots := rules.NewLayout(f, nil).Slots
	r := rand.New(rand.NewPCG(7, 8))
	for range 3 {
		client := netip.AddrFrom4([4]byte{127, 3, byte(r.IntN(250)), byte(1 + r.IntN(250))})
		const n = 300
		refused := 0
		for range n {
			number, err := ask(ns, client, netip.AddrPortFrom(frontKey.Addr, frontKey.Port))
			switch {
			case errors.Is(err, unix.ECONNREFUSED):
				refused++
			case err != nil:
				t.Fatal(err)
			case serverAddr(number) != clientEndpoint(slots, client):
				t.Fatalf("%s went to server %d", client, number)
			}
		}
		share(t, "refused to "+client.String(), refused, n, 0.3)
	}
}
