package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

const agentsNamespace = "portway-system"

// newFakeCore returns a clientset that gives Services what the API server does: UIDs,
// versions and node ports.
func newFakeCore() *kubefake.Clientset {
	client := kubefake.NewClientset()
	made := 0
	complete := func(s *corev1.Service) {
		for i := range s.Spec.Ports {
			if s.Spec.Ports[i].NodePort == 0 {
				made++
				s.Spec.Ports[i].NodePort = int32(30000 + made)
			}
		}
	}
	client.PrependReactor("create", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		s := action.(clienttesting.CreateAction).GetObject().(*corev1.Service)
		made++
		s.UID, s.ResourceVersion = types.UID(fmt.Sprint("service-", made)), strconv.Itoa(made)
		s.CreationTimestamp = metav1.NewTime(epoch)
		complete(s)
		return false, nil, nil
	})
	// Whatever changes or deletes one has to say which: it may be another one by now.
	current := func(action clienttesting.Action, name string) (*corev1.Service, error) {
		o, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), name)
		s, _ := o.(*corev1.Service)
		return s, err
	}
	client.PrependReactor("delete", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		deletion := action.(clienttesting.DeleteActionImpl)
		s, err := current(action, deletion.Name)
		if err != nil {
			return true, nil, err
		}
		p := deletion.DeleteOptions.Preconditions
		if p == nil || p.UID == nil || *p.UID != s.UID || p.ResourceVersion == nil || *p.ResourceVersion != s.ResourceVersion {
			return true, nil, fmt.Errorf("delete %s with preconditions %+v, want those of %s, version %s", s.Name, p, s.UID, s.ResourceVersion)
		}
		return false, nil, nil
	})
	client.PrependReactor("patch", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		patch := action.(clienttesting.PatchActionImpl)
		if patch.GetPatchType() == types.ApplyPatchType {
			var sent corev1.Service
			s, err := current(action, patch.Name)
			if err == nil {
				err = json.Unmarshal(patch.Patch, &sent)
			}
			if err == nil && sent.UID != s.UID {
				err = fmt.Errorf("apply %s to UID %q, want %s", patch.Name, sent.UID, s.UID)
			}
			if err != nil {
				return true, nil, err
			}
		}
		_, o, err := clienttesting.ObjectReaction(client.Tracker())(action)
		s, ok := o.(*corev1.Service)
		if err != nil || !ok {
			return true, o, err
		}
		before := slices.Clone(s.Spec.Ports)
		if complete(s); !slices.Equal(before, s.Spec.Ports) {
			err = client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("services"), s, s.Namespace)
		}
		return true, s, err
	})
	return client
}

// services returns what the informers are to see of Services.
func (b *testbench) services() (put, gone []cluster.Object) {
	if b.core == nil {
		return nil, nil
	}
	list, err := b.core.CoreV1().Services("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	there := map[types.NamespacedName]bool{}
	for i := range list.Items {
		there[keyOf(&list.Items[i])] = true
		put = append(put, list.Items[i].DeepCopy())
	}
	for key, service := range b.snapshot.Services {
		if !there[key] {
			gone = append(gone, service)
		}
	}
	return put, gone
}

// newBalancedBench is a testbench whose class is of mode LoadBalancer.
func newBalancedBench(t *testing.T) *testbench {
	t.Helper()
	b := newTestbench(t)
	b.core = newFakeCore()
	b.restart()
	b.put(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "portway", Generation: 2},
		Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName, ParametersRef: &gatewayv1.ParametersReference{
			Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("default"), Name: "edge",
		}},
	})
	b.choose(v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModeLoadBalancer, LoadBalancerClass: "example.com/a"})
	b.join("a", "10.0.0.1")
	return b
}

// choose changes the parameters of the class.
func (b *testbench) choose(spec v1alpha1.GatewayParametersSpec) {
	b.put(&v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}, Spec: spec})
}

// service returns the one Service in the agents' namespace, nil without one.
func (b *testbench) service() *corev1.Service {
	b.t.Helper()
	list, err := b.core.CoreV1().Services(agentsNamespace).List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) > 1 {
		b.t.Fatalf("%d Services: %v", len(list.Items), err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	return &list.Items[0]
}

// change lets somebody else change the Service.
func (b *testbench) change(change func(*corev1.Service)) {
	b.t.Helper()
	service := b.service()
	change(service)
	if _, err := b.core.CoreV1().Services(agentsNamespace).Update(context.Background(), service, metav1.UpdateOptions{FieldManager: "somebody"}); err != nil {
		b.t.Fatal(err)
	}
	b.sync()
}

func (b *testbench) provide(ingress ...corev1.LoadBalancerIngress) {
	b.t.Helper()
	b.change(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = ingress })
}

// revise changes a Gateway's spec.
func (b *testbench) revise(name string, change func(*gatewayv1.Gateway)) {
	b.t.Helper()
	g := b.gateway(name)
	change(g)
	g.Generation++
	b.put(g)
}

// written returns the writes of Services since, "verb" each.
func (b *testbench) written() []string {
	var verbs []string
	for _, a := range b.core.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" && a.GetVerb() != "update" { // updates are those of tests
			verbs = append(verbs, a.GetVerb())
		}
	}
	b.core.ClearActions()
	return verbs
}

func shownAddresses(g *gatewayv1.Gateway) []string {
	var shown []string
	for _, a := range g.Status.Addresses {
		shown = append(shown, string(*a.Type)+" "+a.Value)
	}
	return shown
}

// attempt makes all pending changes, some of which may fail.
func (b *testbench) attempt() {
	for _, c := range b.changes() {
		_ = b.writer.process(b.ctx, c.key)
	}
}

// elapse lets time pass, and does what there is to do then.
func (b *testbench) elapse() {
	b.t.Helper()
	b.clock.Step(orphanGrace)
	b.settleAll()
}

// remove deletes a Gateway, which the informers see.
func (b *testbench) remove(g *gatewayv1.Gateway) {
	b.t.Helper()
	if err := b.client.GatewayV1().Gateways(g.Namespace).Delete(context.Background(), g.Name, metav1.DeleteOptions{}); err != nil {
		b.t.Fatal(err)
	}
	if err := b.store.Delete(g); err != nil {
		b.t.Fatal(err)
	}
}
