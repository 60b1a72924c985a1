package layer2

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
)

func TestLinksOf(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, text := range texts {
			out = append(out, netip.MustParsePrefix(text))
		}
		return out
	}
	ls := &links{
		all: []link{
			{index: 2, name: "cali123", linkLocal: local},
			{index: 3, name: "cni0", linkLocal: local, prefixes: prefixes("10.244.1.0/24")},
			{index: 4, name: "dmz", prefixes: prefixes("203.0.113.0/24", "2001:db8:f::/64")},
			{index: 5, name: "eth0", linkLocal: local, own: true, prefixes: prefixes("198.51.100.0/24", "203.0.113.100/32")},
			{index: 6, name: "eth1", linkLocal: local, prefixes: prefixes("10.0.0.0/8")},
		},
		unusable: map[string]string{"eth2": "has no carrier", "eth3": "is a port of br0: name that one", "wg0": "is not Ethernet"},
		matched:  map[string][]*link{},
	}
	for _, tt := range []struct {
		name     string
		address  string
		patterns string
		want     string
		missing  string
	}{
		{name: "its network is here", address: "198.51.100.7", want: "eth0"},
		{name: "its network is on another interface", address: "203.0.113.7", want: "dmz"},
		{name: "an address is no network", address: "203.0.113.100", want: "dmz"},
		{name: "its network is nowhere", address: "192.0.2.7", want: "eth0"},
		{name: "two networks", address: "10.244.1.9", want: "cni0,eth1"},
		{name: "IPv6, its network is nowhere", address: "2001:db8:9::7", want: "eth0"},
		{name: "IPv6, its network is where no link-local address is", address: "2001:db8:f::7", missing: "dmz has no IPv6 link-local address"},
		{name: "by name", address: "198.51.100.7", patterns: "eth1", want: "eth1"},
		{name: "by pattern", address: "198.51.100.7", patterns: "eth*,dmz", want: "dmz,eth0,eth1"},
		{name: "by pattern, IPv6", address: "2001:db8:9::7", patterns: "eth*,dmz", want: "eth0,eth1"},
		{name: "by name, IPv6, not usable", address: "2001:db8:9::7", patterns: "dmz", missing: "dmz has no IPv6 link-local address"},
		{name: "no such name", address: "198.51.100.7", patterns: "bond0,team*", missing: "no interface matches bond0, team*"},
		{
			name: "not usable", address: "198.51.100.7", patterns: "eth[23],wg0",
			missing: "eth2 has no carrier; eth3 is a port of br0: name that one; wg0 is not Ethernet",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := netip.MustParseAddr(tt.address)
			var patterns, got []string
			if tt.patterns != "" {
				patterns = strings.Split(tt.patterns, ",")
			}
			for _, l := range ls.of(address, patterns) {
				got = append(got, l.name)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, ",")); diff != "" {
				t.Errorf("answered on (-want +got):\n%s", diff)
			}
			if tt.missing == "" {
				return
			}
			if diff := cmp.Diff(tt.missing, ls.missing(address, patterns)); diff != "" {
				t.Errorf("why nowhere (-want +got):\n%s", diff)
			}
		})
	}
	none := &links{matched: map[string][]*link{}}
	if got, want := none.missing(vip4, nil), "no Ethernet interface has its network, an address of this node or a default route"; got != want {
		t.Errorf("without interfaces: %s", got)
	}
}

// lacks reports whether the kernel has no such interfaces, which the command makes.
func (h *host) lacks(t *testing.T, command string) bool {
	t.Helper()
	_, err := h.Output("sh", "-ec", command)
	if err != nil && strings.Contains(err.Error(), "Unknown device type") {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// TestListLinks reads interfaces of the kinds that the kernel has.
func TestListLinks(t *testing.T) {
	s := newSegment(t, "node-1", "node-2")
	h := s.hosts[0]
	type seen struct {
		Own, LinkLocal bool
		Prefixes       string
		Unusable       string
	}
	usable, notEthernet := seen{LinkLocal: true}, seen{Unusable: "is not Ethernet"}
	want := map[string]seen{
		"lo":    notEthernet,
		"eth0":  {Own: true, LinkLocal: true, Prefixes: "198.51.100.0/24 2001:db8:5::/64"},
		"eth1":  {Unusable: "has no carrier"},
		"peer1": {Unusable: "is down"},
		"br0":   usable,
		"eth2":  {Unusable: "is a port of br0: name that one"},
		"peer2": usable,
		"eth4":  {Own: true, LinkLocal: true, Prefixes: "203.0.113.0/24"},
		"peer4": usable,
	}
	h.run(t, "ip link add eth1 type veth peer name peer1")
	h.run(t, "ip link set eth1 up")
	h.run(t, "ip link add eth4 type veth peer name peer4; ip link set eth4 up; ip link set peer4 up")
	h.run(t, "ip address add 203.0.113.9/24 dev eth4")
	h.run(t, "ip link add br0 type bridge; ip link add eth2 type veth peer name peer2; ip link set eth2 master br0")
	h.run(t, "ip link set eth2 up; ip link set peer2 up; ip link set br0 up")
	h.run(t, "ip route add default via 198.51.100.2")
	if !h.lacks(t, "ip link add dummy0 type dummy") {
		h.run(t, "ip link set dummy0 up; ip address add 192.0.2.1/32 dev dummy0")
		want["dummy0"] = notEthernet
	}
	if !h.lacks(t, "ip link add vrf-1 type vrf table 10") {
		h.run(t, "ip link add eth3 type veth peer name peer3; ip link set eth3 master vrf-1; ip link set vrf-1 up")
		h.run(t, "ip link set eth3 up; ip link set peer3 up")
		want["vrf-1"], want["eth3"], want["peer3"] = notEthernet, usable, usable
	}
	for name := range want {
		if want[name].LinkLocal {
			h.awaitLinkLocal(t, name)
		}
	}
	h.do(t, func() error {
		ls, err := listLinks([]netip.Addr{netip.MustParseAddr("203.0.113.9")})
		if err != nil {
			return err
		}
		got := map[string]seen{}
		for _, l := range ls.all {
			var prefixes []string
			for _, p := range l.prefixes {
				prefixes = append(prefixes, p.String())
			}
			got[l.name] = seen{Own: l.own, LinkLocal: l.linkLocal.IsValid(), Prefixes: strings.Join(prefixes, " ")}
			if !ls.macs[l.mac] {
				t.Errorf("%s is not known by its MAC", l.name)
			}
		}
		for name, reason := range ls.unusable {
			// The kernel adds some of its own for modules that are loaded.
			if _, ours := want[name]; ours || reason != notEthernet.Unusable {
				got[name] = seen{Unusable: reason}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("interfaces (-want +got):\n%s", diff)
		}
		return nil
	})
}

// TestInterfacesComeAndGo follows an interface that goes down, comes up, gets another
// MAC, and one that is made later.
func TestInterfacesComeAndGo(t *testing.T) {
	s := newSegment(t, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	r := node.respond(t, quick())
	own(r, true, vips...)
	for _, a := range vips {
		await(t, r, a, Answering)
		client.awaitNeighbour(t, a, node.mac(t, "eth0"))
	}
	// In the forms of ARP 1 + 1 + 2, of IPv6 1 + 1: what comes later is for a reason.
	eventually(t, "all is announced", func() bool { return r.Counters().Announcements == 6 })
	node.run(t, "ip link set eth0 address 02:00:00:00:aa:01")
	for _, a := range vips {
		eventually(t, "the client hears of the other MAC", func() bool {
			mac, _ := client.neighbour(t, a)
			return mac == MAC{2, 0, 0, 0, 0xaa, 1}
		})
	}
	s.run(t, "ip link set node-1 down")
	for _, a := range vips {
		if got := await(t, r, a, Waiting); got.Missing == "" || got.Interfaces != nil {
			t.Errorf("without carrier: %+v", got)
		}
	}
	s.run(t, "ip link set node-1 up")
	for _, a := range vips {
		await(t, r, a, Answering)
		client.flushNeighbours(t)
		client.awaitNeighbour(t, a, MAC{2, 0, 0, 0, 0xaa, 1})
	}
	r.Set(map[netip.Addr]Address{far4: {Interfaces: []string{"eth[1-9]"}, Probe: true}, far6: {Interfaces: []string{"eth[1-9]"}}})
	await(t, r, far4, Waiting)
	if err := netns.Connect(node.Namespace, "eth1", client.Namespace, "eth1"); err != nil {
		t.Fatal(err)
	}
	node.awaitLinkLocal(t, "eth1")
	client.awaitLinkLocal(t, "eth1")
	client.run(t, "ip route add 203.0.113.0/24 dev eth1; ip route add 2001:db8:f::/64 dev eth1")
	for _, a := range []netip.Addr{far4, far6} {
		await(t, r, a, Answering)
		client.awaitNeighbour(t, a, node.mac(t, "eth1"))
	}
	node.run(t, "ip link del eth1")
	await(t, r, far4, Waiting)
	if c := r.Counters(); c.Conflicts != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestTwoInterfacesOnOneSegment hears on each what it says on the other.
func TestTwoInterfacesOnOneSegment(t *testing.T) {
	s := newSegment(t, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	if err := netns.Connect(node.Namespace, "eth1", s.Namespace, "second"); err != nil {
		t.Fatal(err)
	}
	s.run(t, "ip link set second master lan")
	node.awaitLinkLocal(t, "eth1")
	r := node.respond(t, quick())
	both := Address{Interfaces: []string{"eth*"}, Probe: true}
	r.Set(map[netip.Addr]Address{vip4: both, vip6: both})
	for _, a := range vips {
		if got := await(t, r, a, Answering); len(got.Interfaces) != 2 {
			t.Errorf("%s is answered on %v", a, got.Interfaces)
		}
		client.flushNeighbours(t)
		eventually(t, "the client finds "+a.String(), func() bool {
			client.ask(t, a)
			mac, _ := client.neighbour(t, a)
			return mac == node.mac(t, "eth0") || mac == node.mac(t, "eth1")
		})
	}
	// Until the second look for strangers has passed, too.
	before := r.Counters()
	eventually(t, "it is looked for strangers", func() bool { return r.Counters().Probes >= before.Probes+8 })
	if c := r.Counters(); c.Claims != 0 {
		t.Errorf("counters: %+v", c)
	}
	// One claim is one, though it is heard twice.
	for _, a := range vips {
		before := r.Counters()
		client.shout(t, announcementFrame(mac2, local, a, false), probeFrame(mac2, a))
		eventually(t, "what came after the claim is answered on both", func() bool {
			c := r.Counters()
			return c.AnswersIPv4+c.AnswersIPv6 >= before.AnswersIPv4+before.AnswersIPv6+2
		})
		got, after := r.Statuses()[a], r.Counters()
		if got.State != Answering || after.Claims != before.Claims+1 || after.Conflicts != before.Conflicts {
			t.Errorf("%s: %+v, counters %+v, before %+v", a, got, after, before)
		}
		if err := client.AddAddress("eth0", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
		await(t, r, a, Conflict) // who stands by it claims it more often
	}
}

// TestKindsOfInterfaces answers on interfaces that stand on others.
func TestKindsOfInterfaces(t *testing.T) {
	answers := func(t *testing.T, node, client *host, link string) *Responder {
		t.Helper()
		node.awaitLinkLocal(t, link)
		r := node.respond(t, quick())
		own(r, true, vips...)
		for _, a := range vips {
			if got := await(t, r, a, Answering); !cmp.Equal(got.Interfaces, []string{link}) {
				t.Errorf("%s is answered on %v", a, got.Interfaces)
			}
			client.awaitNeighbour(t, a, node.mac(t, link))
		}
		return r
	}
	const addresses = "ip address add 198.51.100.9/24 dev LINK; ip address add 2001:db8:5::9/64 dev LINK nodad"
	t.Run("bridge", func(t *testing.T) {
		s := newSegment(t, "node-1", "client")
		node, client := s.hosts[0], s.hosts[1]
		node.run(t, "ip link add br0 type bridge; ip link set eth0 master br0; ip link set br0 up")
		node.run(t, strings.ReplaceAll(addresses, "LINK", "br0"))
		answers(t, node, client, "br0")
	})
	t.Run("VLAN", func(t *testing.T) {
		s := newSegment(t, "node-1", "client")
		node, client := s.hosts[0], s.hosts[1]
		for _, h := range s.hosts {
			if h.lacks(t, "ip link add link eth0 name eth0.10 type vlan id 10") {
				t.Skip("no VLANs in this kernel")
			}
			h.run(t, "ip address flush dev eth0 scope global; ip link set eth0.10 up")
		}
		node.run(t, strings.ReplaceAll(addresses, "LINK", "eth0.10"))
		client.run(t, "ip address add 198.51.100.8/24 dev eth0.10; ip address add 2001:db8:5::8/64 dev eth0.10 nodad")
		answers(t, node, client, "eth0.10")
	})
	t.Run("bond", func(t *testing.T) {
		s := newSegment(t, "node-1", "client")
		node, client := s.hosts[0], s.hosts[1]
		if node.lacks(t, "ip link add bond0 type bond mode active-backup miimon 20") {
			t.Skip("no bonds in this kernel")
		}
		node.run(t, "ip link add eth1 type veth peer name peer1; ip link set peer1 up")
		node.run(t, "ip link set eth0 down; ip link set eth0 master bond0; ip link set eth1 master bond0; ip link set bond0 up")
		node.run(t, strings.ReplaceAll(addresses, "LINK", "bond0")+"; ip link set bond0 type bond active_slave eth0")
		r := answers(t, node, client, "bond0")
		before := r.Counters()
		node.run(t, "ip link set bond0 type bond active_slave eth1")
		eventually(t, "announcements when another port has taken over", func() bool {
			return r.Counters().Announcements > before.Announcements
		})
	})
}
