package controller

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

func testMember(name string, addresses ...string) member {
	m := member{name: name, counts: true, kind: corev1.NodeInternalIP, node: testNode(name, true, addresses...)}
	m.addresses = nodeAddresses(m.node, m.kind)
	return m
}

func silentMember(name string, addresses ...string) member {
	m := testMember(name, addresses...)
	m.silent = true
	return m
}

// unsureMember is one whose agent was not seen to renew yet.
func unsureMember(name string, addresses ...string) member {
	m := testMember(name, addresses...)
	m.unwitnessed = true
	return m
}

// servingMember has a report that says at which addresses its agent serves.
func servingMember(m member, addresses ...string) member {
	m.report = testReport(m.name)
	m.report.Report.Addresses = addresses
	return m
}

// many are as many addresses as fit into a report.
func many() []string {
	var addresses []string
	for i := range maxReportedAddresses {
		addresses = append(addresses, fmt.Sprint("192.0.2.", i))
	}
	return addresses
}

func joiningMember(name string, addresses ...string) member {
	m := testMember(name, addresses...)
	m.counts = false
	return m
}

func requesting(values ...string) *gatewayv1.Gateway {
	g := testGateway("g", 80)
	for _, value := range values {
		g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: value})
	}
	return g
}

func publishing(g *gatewayv1.Gateway, values ...string) *gatewayv1.Gateway {
	for _, value := range values {
		g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: value})
	}
	return g
}

// parametersOf are those of a Gateway, whose class may have some.
func parametersOf(g *gatewayv1.Gateway, of ...v1alpha1.GatewayParametersSpec) *topology.Parameters {
	class := &gatewayv1.GatewayClass{Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName}}
	s := topology.Snapshot{
		GatewayClasses:    map[string]*gatewayv1.GatewayClass{string(g.Spec.GatewayClassName): class},
		Gateways:          map[types.NamespacedName]*gatewayv1.Gateway{keyOf(g): g},
		GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{},
		AddressPools: map[string]*v1alpha1.AddressPool{"public": {
			ObjectMeta: metav1.ObjectMeta{Name: "public"}, Spec: v1alpha1.AddressPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}},
		}},
	}
	for i, spec := range of {
		name := fmt.Sprint("p", i)
		s.GatewayParameters[types.NamespacedName{Namespace: "default", Name: name}] = &v1alpha1.GatewayParameters{Spec: spec}
		if i == 0 {
			class.Spec.ParametersRef = &gatewayv1.ParametersReference{
				Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("default"), Name: name,
			}
		} else {
			g = g.DeepCopy()
			g.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: &gatewayv1.LocalParametersReference{
				Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Name: name,
			}}
			s.Gateways[keyOf(g)] = g
		}
	}
	return topology.Resolve(s, topology.DefaultConfig()).Gateways[keyOf(g)]
}

// labelled gives a member's Node labels, and an external address.
func labelled(m member, labels map[string]string, external string) member {
	m.node.Labels = labels
	m.node.Status.Addresses = append(m.node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: external})
	return m
}

// TestAddressesByParameters: parameters choose among nodes and their addresses; those of
// a Gateway among what those of its class leave.
func TestAddressesByParameters(t *testing.T) {
	edge, both := map[string]string{"edge": "true"}, map[string]string{"edge": "true", "rack": "r1"}
	members := []member{
		labelled(testMember("a", "10.0.0.1", "2001:db8::1"), edge, "203.0.113.1"),
		labelled(testMember("b", "10.0.0.2", "2001:db8::2"), both, "203.0.113.2"),
		labelled(testMember("c", "10.0.0.3", "2001:db8::3"), map[string]string{"rack": "r1"}, "203.0.113.3"),
		labelled(silentMember("d", "10.0.0.4"), map[string]string{"quiet": "true"}, "203.0.113.4"),
	}
	selecting := func(labels map[string]string) v1alpha1.GatewayParametersSpec {
		return v1alpha1.GatewayParametersSpec{NodeSelector: &metav1.LabelSelector{MatchLabels: labels}}
	}
	ofClass := selecting(edge)
	ofClass.Permitted = &v1alpha1.PermittedParameters{NodeSelector: true}
	none := selecting(map[string]string{"edge": "false"})
	none.NodeAddressType, none.IPFamilies = v1alpha1.NodeAddressExternal, []corev1.IPFamily{corev1.IPv6Protocol}
	tests := map[string]struct {
		gateway *gatewayv1.Gateway
		of      []v1alpha1.GatewayParametersSpec
		want    []string
		message string
	}{
		"of a selector":              {requesting(), []v1alpha1.GatewayParametersSpec{selecting(edge)}, []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"}, ""},
		"of two selectors":           {requesting(), []v1alpha1.GatewayParametersSpec{ofClass, selecting(map[string]string{"rack": "r1"})}, []string{"10.0.0.2", "2001:db8::2"}, ""},
		"of one family":              {requesting(), []v1alpha1.GatewayParametersSpec{{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}}, []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"}, ""},
		"of both families":           {requesting(), []v1alpha1.GatewayParametersSpec{{NodeSelector: &metav1.LabelSelector{MatchLabels: both}, IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}}}, []string{"10.0.0.2", "2001:db8::2"}, ""},
		"external ones":              {requesting(), []v1alpha1.GatewayParametersSpec{{NodeAddressType: v1alpha1.NodeAddressExternal}}, []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"}, ""},
		"all selected are silent":    {requesting(), []v1alpha1.GatewayParametersSpec{selecting(map[string]string{"quiet": "true"})}, []string{"10.0.0.4"}, ""},
		"asks for one not selected":  {requesting("10.0.0.3"), []v1alpha1.GatewayParametersSpec{selecting(edge)}, nil, "the nodes with an agent have 10.0.0.1, 10.0.0.2, 2001:db8::1, 2001:db8::2"},
		"asks for a selected one":    {requesting("10.0.0.2"), []v1alpha1.GatewayParametersSpec{selecting(edge)}, []string{"10.0.0.2"}, ""},
		"published, not selected":    {publishing(requesting(), "10.0.0.3"), []v1alpha1.GatewayParametersSpec{selecting(both)}, []string{"10.0.0.2", "2001:db8::2"}, ""},
		"none":                       {requesting(), []v1alpha1.GatewayParametersSpec{none}, nil, "no ready node with labels edge=false has an IPv6 address of type ExternalIP that its agent serves"},
		"invalid, and has some":      {publishing(requesting(), "10.0.0.3", "203.0.113.1", "198.51.100.1"), []v1alpha1.GatewayParametersSpec{{Mode: "Host"}}, []string{"10.0.0.3", "203.0.113.1"}, ""},
		"invalid, and has none":      {requesting(), []v1alpha1.GatewayParametersSpec{{Mode: "Host"}}, nil, ""},
		"invalid, and asks for more": {publishing(requesting("10.0.0.1", "10.0.0.2"), "10.0.0.1"), []v1alpha1.GatewayParametersSpec{{Mode: "Host"}}, []string{"10.0.0.1"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := newAssigner(members, corev1.NodeInternalIP, nil).assignOne(parametersOf(test.gateway, test.of...))
			if !got.NodeMode || got.Message != test.message {
				t.Errorf("node mode %t, message %q", got.NodeMode, got.Message)
			}
			if diff := cmp.Diff(test.want, texts(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAddressesOfOtherModes: nothing of the nodes is for a Gateway that is not in mode
// Node.
func TestAddressesOfOtherModes(t *testing.T) {
	members := []member{testMember("a", "10.0.0.1")}
	tests := map[string]struct {
		gateway *gatewayv1.Gateway
		mode    v1alpha1.AddressMode
		want    topology.Assignment
	}{
		"load balancer": {publishing(requesting(), "10.0.0.1"), v1alpha1.AddressModeLoadBalancer, topology.Assignment{
			LoadBalancer: true, Message: "waiting for Service portway-system/gw-default-g-ef3c7ae337 to be made",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := newAssigner(members, corev1.NodeInternalIP, nil).assignOne(parametersOf(test.gateway, v1alpha1.GatewayParametersSpec{Mode: test.mode}))
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	reporting := servingMember(testMember("a", "10.0.0.1"), "10.0.0.1", "192.0.2.7", "2001:db8::7")
	const none = "no ready node has an address of type InternalIP that its agent serves"
	unknown := servingMember(testMember("a", "10.0.0.1"), "192.0.2.7")
	unknown.report.Report.Version = 99
	tests := map[string]struct {
		members []member
		gateway *gatewayv1.Gateway
		want    []string
		message string
	}{
		"those of all nodes, IPv4 first": {
			[]member{testMember("a", "10.0.0.2", "2001:db8::2"), testMember("b", "10.0.0.1")},
			requesting(),
			[]string{"10.0.0.1", "10.0.0.2", "2001:db8::2"},
			"",
		},
		"not of a node that joins":       {[]member{testMember("a", "10.0.0.1"), joiningMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.1"}, ""},
		"not of a silent node":           {[]member{testMember("a", "10.0.0.1"), silentMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.1"}, ""},
		"of silent nodes if all are":     {[]member{silentMember("a", "10.0.0.1"), silentMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.1", "10.0.0.2"}, ""},
		"no node":                        {nil, requesting(), nil, "no ready node has an address of type InternalIP that its agent serves"},
		"two nodes with one address":     {[]member{testMember("a", "10.0.0.1"), testMember("b", "10.0.0.1")}, requesting(), []string{"10.0.0.1"}, ""},
		"a requested one":                {[]member{testMember("a", "10.0.0.1"), testMember("b", "10.0.0.2")}, requesting("10.0.0.2"), []string{"10.0.0.2"}, ""},
		"a requested one of a silent":    {[]member{testMember("a", "10.0.0.1"), silentMember("b", "10.0.0.2")}, requesting("10.0.0.2"), []string{"10.0.0.2"}, ""},
		"a requested one that is not":    {[]member{testMember("a", "10.0.0.1")}, requesting("10.0.0.1", "192.0.2.1"), []string{"10.0.0.1"}, "the nodes with an agent have 10.0.0.1"},
		"a request that is no address":   {[]member{testMember("a", "10.0.0.1")}, requesting("web"), nil, ""},
		"any and a certain one":          {[]member{testMember("a", "10.0.0.1"), testMember("b", "10.0.0.2")}, requesting("", "10.0.0.2"), []string{"10.0.0.1", "10.0.0.2"}, ""},
		"a requested one the agent has":  {[]member{reporting}, requesting("192.0.2.7"), []string{"192.0.2.7"}, ""},
		"mapped IPv4 is IPv4":            {[]member{testMember("a", "10.0.0.1")}, requesting("::ffff:10.0.0.1"), []string{"10.0.0.1"}, ""},
		"published by someone else":      {[]member{testMember("a", "10.0.0.1")}, publishing(requesting(), "198.51.100.1"), []string{"10.0.0.1"}, ""},
		"of another type is not for us":  {[]member{testMember("a", "10.0.0.1")}, hostname(), nil, ""},
		"one its agent does not serve":   {[]member{servingMember(testMember("a", "10.0.0.1", "10.0.0.2"), "10.0.0.2", "192.0.2.7")}, requesting(), []string{"10.0.0.2"}, ""},
		"an agent that serves at none":   {[]member{servingMember(testMember("a", "10.0.0.1"))}, requesting(), nil, none},
		"none to ask for":                {[]member{servingMember(testMember("a", "10.0.0.1"))}, requesting("10.0.0.1"), nil, "the nodes with an agent have no addresses"},
		"a report nobody understands":    {[]member{unknown}, requesting(), []string{"10.0.0.1"}, ""},
		"a report without room":          {[]member{servingMember(testMember("a", "10.0.0.1"), many()...)}, requesting(), []string{"10.0.0.1"}, ""},
		"asked for, no room for it":      {[]member{servingMember(testMember("a", "10.0.0.1"), many()...)}, requesting("10.0.0.1"), []string{"10.0.0.1"}, ""},
		"not known to live, published":   {[]member{testMember("a", "10.0.0.1"), unsureMember("b", "10.0.0.2")}, publishing(requesting(), "10.0.0.2"), []string{"10.0.0.1", "10.0.0.2"}, ""},
		"not known to live, withdrawn":   {[]member{testMember("a", "10.0.0.1"), unsureMember("b", "10.0.0.2")}, publishing(requesting(), "10.0.0.1"), []string{"10.0.0.1"}, ""},
		"nobody is known to live":        {[]member{unsureMember("a", "10.0.0.1"), unsureMember("b", "10.0.0.2")}, publishing(requesting(), "10.0.0.2"), []string{"10.0.0.2"}, ""},
		"nobody is, and it has none":     {[]member{unsureMember("a", "10.0.0.1"), silentMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.1"}, ""},
		"some are, and it has none":      {[]member{testMember("a", "10.0.0.1"), unsureMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.1", "10.0.0.2"}, ""},
		"asks for one not known to live": {[]member{unsureMember("a", "10.0.0.1")}, requesting("10.0.0.1"), []string{"10.0.0.1"}, ""},
		"nodes without address and with": {[]member{testMember("a"), testMember("b", "10.0.0.2")}, requesting(), []string{"10.0.0.2"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := newAssigner(test.members, corev1.NodeInternalIP, nil).assignOne(parametersOf(test.gateway))
			if !got.NodeMode || got.Message != test.message {
				t.Errorf("node mode %t, message %q", got.NodeMode, got.Message)
			}
			if diff := cmp.Diff(test.want, texts(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func hostname() *gatewayv1.Gateway {
	g := testGateway("g", 80)
	g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Type: ptr.To(gatewayv1.HostnameAddressType), Value: "example.com"}}
	return g
}

func texts(a topology.Assignment) []string {
	var all []string
	for _, addr := range a.Addresses {
		all = append(all, addr.String())
	}
	return all
}

// TestAddressesDoNotChurn: beyond 16, nodes that come take nothing from those that
// are there; a node that goes is replaced.
func TestAddressesDoNotChurn(t *testing.T) {
	node := func(i int) member { return testMember(fmt.Sprintf("n%02d", i), fmt.Sprintf("10.0.0.%d", i)) }
	var members []member
	for i := 20; i < 40; i++ {
		members = append(members, node(i))
	}
	g := requesting()
	assign := func() []string {
		got := texts(newAssigner(members, corev1.NodeInternalIP, nil).assignOne(parametersOf(g)))
		g.Status.Addresses = nil
		publishing(g, got...)
		return got
	}
	first := assign()
	if len(first) != maxAddresses || first[0] != "10.0.0.20" {
		t.Fatalf("got %v", first)
	}
	members = append([]member{node(10), node(11)}, members...)
	if diff := cmp.Diff(first, assign()); diff != "" {
		t.Errorf("new nodes (-before +after):\n%s", diff)
	}
	members = append(members[:2:2], members[3:]...) // without n20
	want := append([]string{"10.0.0.10"}, first[1:]...)
	if diff := cmp.Diff(want, assign()); diff != "" {
		t.Errorf("without n20 (-want +got):\n%s", diff)
	}
}

// TestExternalAddressesNeedNotBeOnTheHost: clouds translate them. An agent that serves
// nowhere does not serve there either.
func TestExternalAddressesNeedNotBeOnTheHost(t *testing.T) {
	members := []member{servingMember(testMember("a", "203.0.113.1"), "10.0.0.1"), servingMember(testMember("b", "203.0.113.2"))}
	got := texts(newAssigner(members, corev1.NodeExternalIP, nil).assignOne(parametersOf(requesting())))
	if diff := cmp.Diff([]string{"203.0.113.1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAddressesOfOurGatewaysOnly: nobody else's Gateway is given anything.
func TestAddressesOfOurGatewaysOnly(t *testing.T) {
	class := func(name string, controller gatewayv1.GatewayController) *gatewayv1.GatewayClass {
		c := &gatewayv1.GatewayClass{}
		c.Name, c.Spec.ControllerName = name, controller
		return c
	}
	other, orphan := testGateway("other", 80), testGateway("orphan", 80)
	other.Spec.GatewayClassName, orphan.Spec.GatewayClassName = "theirs", "none"
	s := &topology.Snapshot{
		GatewayClasses: map[string]*gatewayv1.GatewayClass{"portway": class("portway", topology.ControllerName), "theirs": class("theirs", "example.com/theirs")},
		Gateways: map[types.NamespacedName]*gatewayv1.Gateway{
			{Name: "ours"}: testGateway("ours", 80), {Name: "other"}: other, {Name: "orphan"}: orphan,
		},
	}
	got := newAssigner([]member{testMember("a", "10.0.0.1")}, corev1.NodeInternalIP, nil).assign(topology.Resolve(*s, topology.DefaultConfig()))
	if _, ok := got[types.NamespacedName{Name: "ours"}]; !ok || len(got) != 1 {
		t.Errorf("got %v", got)
	}
}
