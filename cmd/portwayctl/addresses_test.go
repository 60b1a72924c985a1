package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

func TestAddresses(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	pool := func(name string, available string, mode v1alpha1.AnnouncementMode, entries ...v1alpha1.AddressRange) *v1alpha1.AddressPool {
		return &v1alpha1.AddressPool{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now)},
			Spec:       v1alpha1.AddressPoolSpec{Addresses: entries, Announcement: &v1alpha1.Announcement{Mode: mode}},
			Status:     v1alpha1.AddressPoolStatus{Available: available},
		}
	}
	s := topology.Snapshot{
		GatewayClasses: map[string]*gatewayv1.GatewayClass{"portway": {Spec: gatewayv1.GatewayClassSpec{
			ControllerName: topology.ControllerName,
			ParametersRef: &gatewayv1.ParametersReference{
				Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("infra"), Name: "pools",
			},
		}}},
		GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{
			{Namespace: "infra", Name: "pools"}: {Spec: v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModePool}},
		},
		AddressPools: map[string]*v1alpha1.AddressPool{
			"segment": pool("segment", "5", v1alpha1.AnnouncementLayer2, "192.0.2.0/29"),
			"routed":  pool("routed", "255", v1alpha1.AnnouncementNone, "198.51.100.0/24"),
			"zz":      pool("zz", "", v1alpha1.AnnouncementNone, "192.0.2.7"),
		},
		Gateways: map[types.NamespacedName]*gatewayv1.Gateway{},
	}
	s.AddressPools["segment"].Status.Retained = []string{"203.0.113.9"}
	for name, addr := range map[string]string{"dns-tcp": "192.0.2.1", "dns-udp": "192.0.2.1", "lost": "192.0.2.2", "routed": "198.51.100.9", "none": "", "old": "203.0.113.9"} {
		g := &gatewayv1.Gateway{Spec: gatewayv1.GatewaySpec{GatewayClassName: "portway"}}
		if addr != "" {
			g.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: addr}}
			g.Status.Conditions = []metav1.Condition{{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: "Pool"}}
		}
		s.Gateways[types.NamespacedName{Namespace: "default", Name: name}] = g
	}
	report := func(name string, ago time.Duration, addresses ...string) v1alpha1.NodeReport {
		return v1alpha1.NodeReport{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Report:     v1alpha1.Report{Announcing: []v1alpha1.Announced{{Since: metav1.NewTime(now.Add(-ago)), Addresses: addresses}}},
		}
	}
	var out strings.Builder
	if err := printAddresses(&out, s, []v1alpha1.NodeReport{report("node-b", time.Hour, "192.0.2.1", "203.0.113.9"), report("node-a", 3*time.Minute, "192.0.2.1")}, now); err != nil {
		t.Fatal(err)
	}
	const want = `POOL     ADDRESSES        ANNOUNCED  ASSIGNED  AVAILABLE  ACCEPTED
routed   198.51.100.0/24  by others  1         255        True
segment  192.0.2.0/29     Layer2     3         5          True
zz       192.0.2.7        by others  0                    False (Overlapping)

ADDRESS       GATEWAY                          POOL                NODE           SINCE
198.51.100.9  default/routed                   routed              all            -
192.0.2.1     default/dns-tcp,default/dns-udp  segment             node-a,node-b  3m,60m
192.0.2.2     default/lost                     segment             -              -
203.0.113.9   default/old                      segment (retained)  node-b         60m
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
