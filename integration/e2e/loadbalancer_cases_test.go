package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	balancedClass = "portway-balanced"
	labClass      = "example.com/lab"
	// providersNote is an annotation of the provider.
	providersNote = "example.com/id"
)

// loadBalancer: a Gateway has the addresses that a provider gives to its Service, and is
// served there and at the node ports of every node. The Service follows the Gateway, is
// made anew when somebody deletes it, and goes with it.
func loadBalancer(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, added = 7050, 7051
	s := c.space(t, "load-balancer")
	s.class(t, balancedClass, "{mode: LoadBalancer, loadBalancerClass: "+labClass+", ipFamilies: [IPv4, IPv6]}")
	p := startProvider(t, c)

	propagated := "spec:\n  infrastructure: {labels: {team: red}, annotations: {example.com/subnet: one}}\n"
	balanced := func(ports ...int) string {
		return of(balancedClass, gateway("gw", ports...))
	}
	s.apply(t, backend("pods", 2), strings.Replace(balanced(port), "spec:\n", propagated, 1),
		route("TCPRoute", "tcp", "gw", "pods"), route("UDPRoute", "udp", "gw", "pods"))
	s.ready(t, "pods", 2)
	gw := s.balanced(t, p)
	service := s.service(t, gw)
	if service.Labels["team"] != "red" || service.Annotations["example.com/subnet"] != "one" || service.Annotations[providersNote] == "" {
		t.Errorf("labels %v, annotations %v", service.Labels, service.Annotations)
	}
	s.reachBalanced(t, gw, port)

	s.apply(t, balanced(port, added))
	eventually(t, settle, func() error {
		service := s.service(t, gw)
		if len(service.Spec.Ports) != 4 || service.Labels["team"] != "" || service.Annotations["example.com/subnet"] != "" || service.Annotations[providersNote] == "" {
			return fmt.Errorf("labels %v, annotations %v, ports %v", service.Labels, service.Annotations, service.Spec.Ports)
		}
		return nil
	})
	s.reachBalanced(t, s.balanced(t, p), added)

	if err := c.Kube.CoreV1().Services(System).Delete(t.Context(), service.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, settle, func() error {
		if again := s.service(t, gw); again.UID == service.UID || len(again.Status.LoadBalancer.Ingress) == 0 {
			return errors.New("no other Service was made")
		}
		return nil
	})
	s.reachBalanced(t, s.balanced(t, p), port)

	service = s.service(t, gw)
	s.kubectl(t, "delete", "gateway", "gw")
	took := eventually(t, 2*settle, func() error {
		_, err := c.Kube.CoreV1().Services(System).Get(t.Context(), service.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("its Service is still there: %w", err)
	})
	t.Logf("the Service was gone %s after the Gateway", took)
	for i := range Nodes {
		node := join(c.Node(i + 1).Addresses[0], int(service.Spec.Ports[0].NodePort))
		eventually(t, settle, func() error { return c.refuses(t.Context(), node) })
	}
}

// balanced waits until Gateway gw has what its Service was given last, and proof of it.
func (s *space) balanced(t *testing.T, p *provider) *gatewayv1.Gateway {
	t.Helper()
	var gw *gatewayv1.Gateway
	eventually(t, settle, func() (err error) {
		if gw, err = s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{}); err != nil {
			return err
		}
		var shown []netip.Addr
		for _, a := range gw.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Value); err == nil {
				shown = append(shown, addr)
			}
		}
		if given := p.last(); len(given) == 0 || !slices.Equal(sorted(shown), sorted(given)) {
			return fmt.Errorf("the Gateway has %v, its Service was given %v", shown, given)
		}
		return current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, "")
	})
	return gw
}

// service waits for the Service of a Gateway and returns it.
func (s *space) service(t *testing.T, gw *gatewayv1.Gateway) *corev1.Service {
	t.Helper()
	var found *corev1.Service
	eventually(t, settle, func() error {
		list, err := s.Kube.CoreV1().Services(System).List(t.Context(), metav1.ListOptions{
			LabelSelector: "portway.dev/gateway-namespace=" + gw.Namespace + ",portway.dev/gateway-name=" + gw.Name,
		})
		switch {
		case err != nil:
			return err
		case len(list.Items) != 1:
			return fmt.Errorf("the Gateway has %d Services", len(list.Items))
		}
		found = &list.Items[0]
		return nil
	})
	return found
}

// reachBalanced reaches the pods at each address of the Gateway, whichever node it is
// routed to, and at each node's node ports.
func (s *space) reachBalanced(t *testing.T, gw *gatewayv1.Gateway, port int) {
	t.Helper()
	nodePorts := map[corev1.Protocol]int32{}
	for _, sp := range s.service(t, gw).Spec.Ports {
		if int(sp.Port) == port {
			nodePorts[sp.Protocol] = sp.NodePort
		}
	}
	for _, addr := range addresses(t, gw) {
		s.reachLed(t, addr, port, "pods")
	}
	for i := range Nodes {
		for _, addr := range s.Node(i + 1).Addresses {
			s.reach(t, "tcp", join(addr, int(nodePorts[corev1.ProtocolTCP])), "pods")
			s.reach(t, "udp", join(addr, int(nodePorts[corev1.ProtocolUDP])), "pods")
		}
	}
}

// provider gives Services of labClass addresses, and routes them from the client outside
// to a node.
type provider struct {
	cluster *Cluster

	mu    sync.Mutex   // guards everything below
	given []netip.Addr // to the last Service
	next4 netip.Addr
	next6 netip.Addr
}

func startProvider(t *testing.T, c *Cluster) *provider {
	t.Helper()
	p := &provider{
		cluster: c,
		next4:   netip.MustParseAddr("203.0.113.1"), next6: netip.MustParseAddr("2001:db8:f::1"),
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if err := p.follow(ctx); err != nil && ctx.Err() == nil {
				t.Logf("provider of load balancers: %v", err)
			}
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return p
}

// follow watches Services until the watch ends.
func (p *provider) follow(ctx context.Context) error {
	services := p.cluster.Kube.CoreV1().Services(System)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if err := p.serve(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	watch, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		if service, ok := event.Object.(*corev1.Service); ok && event.Type != "DELETED" {
			if err := p.serve(ctx, service); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve gives a Service its addresses, and what providers write into metadata.
func (p *provider) serve(ctx context.Context, service *corev1.Service) error {
	if class := service.Spec.LoadBalancerClass; class == nil || *class != labClass || len(service.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	services := p.cluster.Kube.CoreV1().Services(System)
	note := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, providersNote, service.UID)
	fresh, err := services.Patch(ctx, service.Name, "application/merge-patch+json", []byte(note), metav1.PatchOptions{FieldManager: "lab"})
	if err != nil {
		return err
	}
	if len(fresh.Status.LoadBalancer.Ingress) > 0 { // an event from before it was given them
		return nil
	}
	for _, addr := range p.give(fresh.Spec.IPFamilies) {
		if err := p.cluster.lead(ctx, addr, 1); err != nil {
			return err
		}
		fresh.Status.LoadBalancer.Ingress = append(fresh.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr.String()})
	}
	_, err = services.UpdateStatus(ctx, fresh, metav1.UpdateOptions{FieldManager: "lab"})
	if apierrors.IsConflict(err) {
		return nil // it is seen again
	}
	return err
}

// give takes addresses for a Service.
func (p *provider) give(families []corev1.IPFamily) []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var given []netip.Addr
	for _, family := range families {
		if family == corev1.IPv6Protocol {
			given = append(given, p.next6)
			p.next6 = p.next6.Next()
		} else {
			given = append(given, p.next4)
			p.next4 = p.next4.Next()
		}
	}
	p.given = given
	return given
}

// last returns what was given last.
func (p *provider) last() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.given)
}
