package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// staticAddresses is what the Gateway API's own test GatewayStaticAddresses shows, of which
// the suite has none for TCP: addresses by value, of pools and of nodes, and what is said of
// those that are not to be had.
func staticAddresses(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, class = 7052, "portway-static"
	s := c.space(t, "static-addresses")
	s.addressPool(t, "static", "192.0.2.32/28, '2001:db8:5::/124'")
	s.class(t, class, "{mode: Pool, pool: static, permitted: {modes: [Node]}}")
	wants := func(name string, addresses ...string) string {
		return of(class, requesting(gateway(name, port), addresses...))
	}
	s.apply(t, backend("pods", 2), wants("gw", "Hostname=gw.example.com", "198.51.100.7", "192.0.2.40"),
		route("TCPRoute", "tcp", "gw", "pods"), route("UDPRoute", "udp", "gw", "pods"))
	s.ready(t, "pods", 2)
	s.gatewayHas(t, "gw", "Accepted", metav1.ConditionFalse, string(gatewayv1.GatewayReasonUnsupportedAddress), "Hostname")

	s.apply(t, wants("gw", "198.51.100.7", "192.0.2.40"))
	s.gatewayHas(t, "gw", "Programmed", metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressNotUsable), "198.51.100.7")
	s.gatewayHas(t, "gw", "Accepted", metav1.ConditionTrue, "", "")

	has := func(name string, want ...string) {
		t.Helper()
		var all []netip.Addr
		for _, a := range want {
			all = append(all, netip.MustParseAddr(a))
		}
		eventually(t, settle, func() error {
			if got := addresses(t, s.programmed(t, name)); !slices.Equal(sorted(got), sorted(all)) {
				return fmt.Errorf("Gateway %s has %v, want %v", name, got, all)
			}
			return nil
		})
	}
	s.apply(t, wants("gw", "192.0.2.40", "2001:db8:5::7"))
	has("gw", "192.0.2.40", "2001:db8:5::7")
	c.reachLed(t, netip.MustParseAddr("192.0.2.40"), port, "pods")
	c.reachLed(t, netip.MustParseAddr("2001:db8:5::7"), port, "pods")

	s.apply(t, wants("late", "192.0.2.40"))
	s.gatewayHas(t, "late", "Programmed", metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressNotUsable), "another Gateway has 192.0.2.40")
	s.apply(t, wants("gw", "")) // any: what it has will do
	has("gw", "192.0.2.40")
	s.apply(t, wants("gw", "192.0.2.41"))
	has("gw", "192.0.2.41")
	has("late", "192.0.2.40")
	c.reachLed(t, netip.MustParseAddr("192.0.2.41"), port, "pods")

	node := c.Node(2).Addresses[0]
	s.apply(t, wants("gw", node.String()))
	has("gw", node.String())
	c.reach(t, "tcp", join(node, port), "pods")
	s.apply(t, wants("gw", "172.30.0.250"))
	s.gatewayHas(t, "gw", "Programmed", metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressNotUsable), "172.30.0.250")
}

// pools: what of a pool is given, to whom, and that nothing in use is taken away.
func pools(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, class, only6, shared = 7053, "portway-small", "portway-ipv6", "portway-shared"
	const retained = "portway.dev/AddressRetained"
	s := c.space(t, "pools")
	s.addressPool(t, "small", "192.0.2.64-192.0.2.65")
	s.class(t, class, "{mode: Pool, pool: small}")
	s.apply(t, backend("pods", 2))
	first, second := netip.MustParseAddr("192.0.2.64"), netip.MustParseAddr("192.0.2.65")
	hasOnly := func(name string, want netip.Addr) {
		t.Helper()
		if got := addresses(t, s.programmed(t, name)); !slices.Equal(got, []netip.Addr{want}) {
			t.Fatalf("Gateway %s has %v, want %v", name, got, want)
		}
	}
	s.apply(t, of(class, gateway("one", port)))
	hasOnly("one", first)
	s.apply(t, of(class, gateway("two", port)))
	hasOnly("two", second)

	// None is left, until somebody goes.
	s.apply(t, of(class, gateway("three", port)), route("TCPRoute", "tcp", "three", "pods"), route("UDPRoute", "udp", "three", "pods"))
	s.ready(t, "pods", 2)
	s.gatewayHas(t, "three", "Programmed", metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressNotAssigned), "AddressPool small")
	poolHas(t, c, "small", "True Accepted 0 [192.0.2.64-192.0.2.65]")
	s.kubectl(t, "delete", "gateway", "one")
	hasOnly("three", first)
	c.reachLed(t, first, port, "pods")
	stream := c.stream(t, "tcp", join(first, port))

	// The pool shrinks, grows again and is deleted under a Gateway that has its address.
	s.apply(t, addressPool("small", "192.0.2.65"))
	s.gatewayHas(t, "three", retained, metav1.ConditionTrue, "OutsidePool", "small")
	hasOnly("three", first)
	s.apply(t, addressPool("small", "192.0.2.64-192.0.2.65"))
	eventually(t, settle, func() error {
		if gw := s.programmed(t, "three"); meta.IsStatusConditionTrue(gw.Status.Conditions, retained) {
			return errors.New("its address is in the pool again, and said to be retained")
		}
		return nil
	})
	s.kubectl(t, "delete", "addresspool", "small", "--wait=false")
	s.gatewayHas(t, "three", retained, metav1.ConditionTrue, "PoolDeleting", "small")
	s.apply(t, of(class, gateway("four", port)))
	s.gatewayHas(t, "four", "Programmed", metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressNotAssigned), "small")
	hasOnly("three", first)
	stream.whole(t)
	s.kubectl(t, "delete", "gateway", "two", "three", "four")
	eventually(t, settle, func() error {
		out, err := s.Kubectl(t.Context(), "get", "addresspool", "small", "--ignore-not-found", "-o", "name")
		if err == nil && out != "" {
			err = errors.New("the pool stays, although nobody has an address of it")
		}
		return err
	})

	// A cluster of one family, as far as its Gateways are concerned.
	s.addressPool(t, "six", "'2001:db8:6::/120'")
	s.class(t, only6, "{mode: Pool, pool: six, ipFamilies: [IPv6]}")
	s.apply(t, of(only6, gateway("three", port)))
	at := addresses(t, s.programmed(t, "three"))
	if len(at) != 1 || !netip.MustParsePrefix("2001:db8:6::/120").Contains(at[0]) {
		t.Fatalf("a Gateway of IPv6 only has %v", at)
	}
	c.reachLed(t, at[0], port, "pods")

	// Two Gateways share an address, and the younger one does not get the older one's port.
	s.addressPool(t, "shared", "192.0.2.80/30")
	s.class(t, shared, "{mode: Pool, pool: shared}")
	sharing := func(name string, ports ...int) string {
		return of(shared, strings.Replace(gateway(name, ports...), "name: "+name, "name: "+name+", labels: {portway.dev/share-address: dns}", 1))
	}
	s.apply(t, sharing("dns-a", 53))
	s.programmed(t, "dns-a")
	s.apply(t, sharing("dns-b", 53, 853))
	gw := s.gatewayHas(t, "dns-b", "Accepted", metav1.ConditionTrue, string(gatewayv1.GatewayReasonListenersNotValid), "")
	if a, b := addresses(t, s.programmed(t, "dns-a")), addresses(t, gw); !slices.Equal(a, b) {
		t.Errorf("those that share have %v and %v", a, b)
	}
	for _, l := range gw.Status.Listeners {
		reason := string(gatewayv1.ListenerReasonPortUnavailable)
		status := metav1.ConditionFalse
		if strings.HasSuffix(string(l.Name), "-853") {
			reason, status = "", metav1.ConditionTrue
		}
		if err := current(l.Conditions, gw.Generation, string(gatewayv1.ListenerConditionAccepted), status, reason); err != nil {
			t.Errorf("listener %s: %v", l.Name, err)
		}
	}
}
