package layer2

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// TestAnswers has the kernel of a client find addresses.
func TestAnswers(t *testing.T) {
	s := newSegment(t, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	own(r, true, vips...)
	for _, a := range vips {
		if got := await(t, r, a, Answering); !cmp.Equal(got.Interfaces, []string{"eth0"}) {
			t.Errorf("%s is answered on %v", a, got.Interfaces)
		}
		client.flushNeighbours(t)
		client.awaitNeighbour(t, a, node.mac(t, "eth0"))
		// Once known, a neighbour is asked by unicast whether it is still there.
		eventually(t, "unicast probe of "+a.String()+" is answered", func() bool {
			client.run(t, fmt.Sprintf("ip neigh change %s lladdr %s dev eth0 nud probe", a, node.mac(t, "eth0")))
			for range 200 {
				if _, state := client.neighbour(t, a); state == reachable {
					return true
				}
				time.Sleep(5 * time.Millisecond)
			}
			return false
		})
	}
	if c := r.Counters(); c.AnswersIPv4 == 0 || c.AnswersIPv6 == 0 {
		t.Errorf("counters: %+v", c)
	}
	// The next address is nobody's.
	for _, a := range vips {
		client.ask(t, a.Next())
		eventually(t, a.Next().String()+" stays unknown", func() bool {
			_, state := client.neighbour(t, a.Next())
			return state == unix.NUD_FAILED
		})
	}
	r.Set(nil)
	client.flushNeighbours(t)
	for _, a := range vips {
		client.ask(t, a)
		eventually(t, a.String()+" is answered no more", func() bool {
			_, state := client.neighbour(t, a)
			return state == unix.NUD_FAILED
		})
	}
}

// TestDefendsAgainstDetection has the kernel of another host try to get our address
// for itself.
func TestDefendsAgainstDetection(t *testing.T) {
	s := newSegment(t, "node-1", "other")
	node, other := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	own(r, false, vips...)
	await(t, r, vip6, Answering)
	if err := other.SetSysctl("net/ipv6/conf/eth0/accept_dad", "1"); err != nil {
		t.Fatal(err)
	}
	other.run(t, "ip address add "+vip6.String()+"/64 dev eth0")
	eventually(t, "duplicate address detection fails", func() bool {
		out, err := other.Output("ip", "-6", "address", "show", "dev", "eth0", "dadfailed")
		if err != nil {
			t.Fatal(err)
		}
		return out != ""
	})
	// Of IPv4, Linux leaves it to others.
	config := quick()
	config.Recheck = time.Hour
	prober := other.respond(t, config)
	own(prober, true, vip4)
	if got := await(t, prober, vip4, Conflict); got.Stranger.MAC != node.mac(t, "eth0") {
		t.Errorf("the other host found %+v", got.Stranger)
	}
	if got := r.Statuses()[vip4]; got.State != Answering || got.Stranger != nil {
		t.Errorf("who was asked has become %+v", got)
	}
	// It turns out to be a peer: whoever owns the address may have it at once.
	prober.SetPeers([]MAC{node.mac(t, "eth0")})
	await(t, prober, vip4, Answering)
}

// TestTakeOverUpdatesNeighbours has another node take addresses over; a client that
// asks nobody learns of it.
func TestTakeOverUpdatesNeighbours(t *testing.T) {
	s := newSegment(t, "node-1", "node-2", "client")
	node1, node2, client := s.hosts[0], s.hosts[1], s.hosts[2]
	r1, r2 := node1.respond(t, quick()), node2.respond(t, quick())
	own(r1, true, vips...)
	for _, a := range vips {
		await(t, r1, a, Answering)
		client.awaitNeighbour(t, a, node1.mac(t, "eth0"))
	}
	r1.Set(nil)
	own(r2, false, vips...)
	for _, a := range vips {
		eventually(t, a.String()+" has moved in the client's cache", func() bool {
			mac, _ := client.neighbour(t, a)
			return mac == node2.mac(t, "eth0")
		})
	}
	// Both answered while the network was split; who goes on says so again.
	r1.SetPeers([]MAC{node2.mac(t, "eth0")})
	r2.SetPeers([]MAC{node1.mac(t, "eth0")})
	own(r1, false, vips...)
	for _, a := range vips {
		await(t, r1, a, Answering)
	}
	r2.Announce(vips)
	for _, a := range vips {
		eventually(t, a.String()+" is where it was announced last", func() bool {
			mac, _ := client.neighbour(t, a)
			return mac == node2.mac(t, "eth0")
		})
	}
	r2.Set(nil)
	r1.Announce(vips)
	for _, a := range vips {
		eventually(t, a.String()+" has moved back", func() bool {
			mac, _ := client.neighbour(t, a)
			return mac == node1.mac(t, "eth0")
		})
	}
}

// TestStrangerIsFoundBefore probes for addresses that a host outside of the cluster has.
func TestStrangerIsFoundBefore(t *testing.T) {
	s := newSegment(t, "node-1", "stranger", "client")
	node, stranger, client := s.hosts[0], s.hosts[1], s.hosts[2]
	for _, a := range vips {
		if err := stranger.AddAddress("eth0", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	r := node.respond(t, quick())
	own(r, true, vips...)
	for _, a := range vips {
		got := await(t, r, a, Conflict)
		want := Stranger{MAC: stranger.mac(t, "eth0"), Interface: "eth0", Seen: got.Stranger.Seen}
		if diff := cmp.Diff(want, *got.Stranger); diff != "" {
			t.Errorf("%s: stranger (-want +got):\n%s", a, diff)
		}
		if age := time.Since(got.Stranger.Seen); age < 0 || age > patience {
			t.Errorf("%s: seen %s ago", a, age)
		}
		client.awaitNeighbour(t, a, stranger.mac(t, "eth0"))
	}
	c := r.Counters()
	if c.Conflicts != 2 || c.Announcements != 0 || c.AnswersIPv4+c.AnswersIPv6 != 0 {
		t.Errorf("counters: %+v", c)
	}
	// Looking again, it finds him again, and nothing new.
	eventually(t, "it is looked again", func() bool { return r.Counters().Probes > c.Probes+6 })
	if again := r.Counters(); again.Conflicts != 2 || again.Claims <= c.Claims {
		t.Errorf("counters: %+v", again)
	}
	for _, a := range vips {
		stranger.run(t, fmt.Sprintf("ip address del %s/%d dev eth0", a, a.BitLen()))
		if got := await(t, r, a, Answering); got.Stranger != nil {
			t.Errorf("%s: still there: %+v", a, got.Stranger)
		}
		client.awaitNeighbour(t, a, node.mac(t, "eth0"))
	}
}

// TestStrangerIsFoundLater has a host take addresses that we have, without asking or
// telling anybody.
func TestStrangerIsFoundLater(t *testing.T) {
	s := newSegment(t, "node-1", "stranger")
	node, stranger := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	own(r, true, vips...)
	for _, a := range vips {
		await(t, r, a, Answering)
		if err := stranger.AddAddress("eth0", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
		if got := await(t, r, a, Conflict); got.Stranger.MAC != stranger.mac(t, "eth0") {
			t.Errorf("%s: stranger %+v", a, got.Stranger)
		}
	}
}

// TestOneClaimIsDefended hears a claim that nobody stands by, and then one of a peer.
func TestOneClaimIsDefended(t *testing.T) {
	s := newSegment(t, "node-1", "other")
	node, other := s.hosts[0], s.hosts[1]
	config := quick()
	config.DefendInterval = time.Second
	r := node.respond(t, config)
	own(r, true, vips...)
	for _, a := range vips {
		await(t, r, a, Answering)
		before := r.Counters()
		other.shout(t, announcementFrame(mac2, local, a, false))
		eventually(t, "the claim is looked into", func() bool {
			got := r.Statuses()[a]
			return got.State == Answering && got.Stranger != nil && got.Stranger.MAC == mac2
		})
		eventually(t, "it is over", func() bool { return r.Statuses()[a].Stranger == nil })
		got, after := r.Statuses()[a], r.Counters()
		if got.State != Answering || after.Claims != before.Claims+1 || after.Conflicts != before.Conflicts || after.Announcements == before.Announcements {
			t.Errorf("%s: %+v, counters %+v, before %+v", a, got, after, before)
		}
		// Twice is too often.
		other.shout(t, announcementFrame(mac2, local, a, false))
		other.shout(t, announcementFrame(mac2, local, a, false))
		await(t, r, a, Conflict)
		await(t, r, a, Answering) // nobody there
	}
	r.SetPeers([]MAC{mac2})
	before := r.Counters()
	for _, a := range vips {
		for range 3 {
			other.shout(t, announcementFrame(mac2, local, a, true))
		}
	}
	// The answer to a question that came later shows that the claims were heard.
	for _, a := range vips {
		other.awaitNeighbour(t, a, node.mac(t, "eth0"))
		if got := r.Statuses()[a]; got.State != Answering || got.Stranger != nil {
			t.Errorf("%s: a peer's claim has led to %+v", a, got)
		}
	}
	if after := r.Counters(); after.Claims != before.Claims {
		t.Errorf("peers' claims were counted: %+v, before %+v", after, before)
	}
}

// shout sends frames as they are.
func (h *host) shout(t *testing.T, frames ...frame) {
	t.Helper()
	h.do(t, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err := packet.Listen(i, packet.Raw, 0, nil)
		if err != nil {
			return err
		}
		for _, f := range frames {
			_, sent := conn.WriteTo(f.data, &packet.Addr{HardwareAddr: f.to[:]})
			err = errors.Join(err, sent)
		}
		return errors.Join(err, conn.Close())
	})
}

func TestQuery(t *testing.T) {
	s := newSegment(t, "node-1", "node-2")
	node1, node2 := s.hosts[0], s.hosts[1]
	r1, r2 := node1.respond(t, quick()), node2.respond(t, quick())
	own(r2, false, vips...)
	for _, a := range vips {
		await(t, r2, a, Answering)
	}
	r1.SetPeers([]MAC{node2.mac(t, "eth0")})
	eventually(t, "the responder knows its interfaces", func() bool {
		missing, all := r1.Interfaces([]Reach{{Address: vip6}})
		return missing[0] == "" && cmp.Equal(all, []Interface{{Name: "eth0", MAC: node1.mac(t, "eth0")}})
	})
	questions := []Reach{{Address: vip4}, {Address: vip6}, {Address: vip4.Next()}, {Address: far6, Interfaces: []string{"none"}}}
	got := r1.Query(t.Context(), questions, time.Second)
	want := map[netip.Addr][]MAC{
		vip4: {node2.mac(t, "eth0")}, vip6: {node2.mac(t, "eth0")}, vip4.Next(): nil, far6: nil,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("who answers (-want +got):\n%s", diff)
	}
}

// TestBusySegment has others ask for addresses that are not ours: what the filter
// stops costs no wake-up.
func TestBusySegment(t *testing.T) {
	s := newSegment(t, "node-1", "other")
	node, other := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	own(r, false, vips...)
	await(t, r, vip4, Answering)
	await(t, r, vip6, Answering)
	var noise []frame
	for i := range 500 {
		noise = append(noise, probeFrame(mac2, addr6), probeFrame(mac2, netip.AddrFrom4([4]byte{198, 51, byte(101 + i%5), byte(i)})))
	}
	other.shout(t, noise...)
	other.awaitNeighbour(t, vip4, node.mac(t, "eth0"))
	other.awaitNeighbour(t, vip6, node.mac(t, "eth0"))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.ports {
		for _, e := range []*ear{p.v4, p.v6} {
			stats, err := e.conn.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if stats.Packets > 100 {
				t.Errorf("%d frames passed the filter", stats.Packets)
			}
		}
	}
}

// TestManyGroups joins more multicast groups than one socket may have.
func TestManyGroups(t *testing.T) {
	s := newSegment(t, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	var many []netip.Addr
	for a := netip.MustParseAddr("2001:db8:5::1:0"); len(many) < 5000; a = a.Next() {
		many = append(many, a)
	}
	own(r, false, many...)
	last := many[len(many)-1]
	await(t, r, last, Answering)
	client.awaitNeighbour(t, last, node.mac(t, "eth0"))
	out, err := node.Output("sh", "-c", "grep -c ff0200000000000000000001ff01 /proc/net/igmp6")
	if err != nil || out != "5000\n" {
		t.Errorf("groups joined: %s, error %v", out, err)
	}
	own(r, false, many[0])
	eventually(t, "groups are left", func() bool {
		out, err := node.Output("sh", "-c", "grep -c ff0200000000000000000001ff01 /proc/net/igmp6")
		return err == nil && out == "1\n"
	})
}

func TestWithoutRight(t *testing.T) {
	s := newSegment(t, "node-1")
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread has lost its rights
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capset(&header, &data[0]); err != nil {
			errs <- err
			return
		}
		errs <- Check()
	}()
	var missing *CapabilityError
	if err := <-errs; !errors.As(err, &missing) || missing.Capability != "NET_RAW" || !errors.Is(err, unix.EPERM) {
		t.Errorf("without rights: %v", err)
	} else if want := "packet sockets need the capability NET_RAW: open a packet socket: operation not permitted; add it to the agent's " +
		"container (securityContext.capabilities.add: [NET_RAW]), or announce no pool on layer 2"; err.Error() != want {
		t.Errorf("message: %v", err)
	}
	s.hosts[0].do(t, Check)
}
