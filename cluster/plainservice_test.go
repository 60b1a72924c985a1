package cluster

import (
	"fmt"
	"runtime"
	"testing"
	"weak"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/topology"
)

// serviceOn makes a Service with one port.
func serviceOn(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, ResourceVersion: "1", Labels: map[string]string{"app": name}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0." + name, Ports: []corev1.ServicePort{{Name: "p", Protocol: corev1.ProtocolTCP, Port: port}}},
	}
}

// TestAlikeServicesAreOne: Services that only their names tell apart are held once, and what
// becomes of one of them is nothing to the others.
func TestAlikeServicesAreOne(t *testing.T) {
	s := NewStore()
	read := func(o *corev1.Service) Object {
		object, ok := trimAny(t, trimmer{}, o).(Object)
		if !ok {
			t.Fatal("no object")
		}
		return object
	}
	next := func() *topology.Snapshot {
		t.Helper()
		update := s.Next()
		if update.Snapshot == nil {
			t.Fatal("nothing changed")
		}
		return update.Snapshot
	}
	put(t, s, read(serviceOn("1", 80)), read(serviceOn("2", 80)), read(serviceOn("3", 81)))
	first := next().Services
	if first[key("1")] != first[key("2")] || first[key("1")] == first[key("3")] {
		t.Errorf("Services 1 and 2 are alike, 3 is not: %p %p %p", first[key("1")], first[key("2")], first[key("3")])
	}
	put(t, s, read(serviceOn("2", 80)))
	if signalled(s) {
		t.Error("a Service that is as it was is a change")
	}
	put(t, s, read(serviceOn("2", 81)))
	second := next().Services
	if second[key("1")].Spec.Ports[0].Port != 80 || second[key("2")] != second[key("3")] || first[key("2")].Spec.Ports[0].Port != 80 {
		t.Errorf("Service 2 has become like 3: %v, before %v", second, first)
	}
	withNodePort := serviceOn("2", 80)
	withNodePort.Spec.Ports[0].NodePort = 30080
	put(t, s, read(withNodePort))
	if got := next().Services[key("2")]; got.Name != "2" || got.Spec.Ports[0].NodePort != 30080 {
		t.Errorf("a Service with a node port has no name: %v", got)
	}
	if err := s.Delete(read(serviceOn("1", 80))); err != nil {
		t.Fatal(err)
	}
	if left := next().Services; left[key("1")] != nil || len(left) != 2 {
		t.Errorf("left are %v", left)
	}
}

// TestAlikeServicesAreForgotten: content that no Service has any more is not kept.
func TestAlikeServicesAreForgotten(t *testing.T) {
	a := alikeServices{known: map[string]weak.Pointer[corev1.Service]{}}
	kept := a.share(serviceOn("kept", 1).Spec)
	for i := range 1000 {
		a.share(serviceOn(fmt.Sprint(i), int32(i)).Spec)
		if i%100 == 0 {
			runtime.GC()
		}
	}
	if len(a.known) > 500 {
		t.Errorf("%d of 1000 are remembered", len(a.known))
	}
	if again := a.share(serviceOn("kept", 1).Spec); again != kept {
		t.Error("one that is in use is forgotten")
	}
}
