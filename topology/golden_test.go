package topology

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/rules"
)

var update = flag.Bool("update", false, "rewrite testdata/*.out.yaml")

// TestGolden decides every testdata/*.in.yaml and compares statuses, winners,
// backends and the forwarding of the nodes it names with its *.out.yaml.
func TestGolden(t *testing.T) {
	for _, name := range goldenNames(t) {
		t.Run(name, func(t *testing.T) {
			snapshot, config := readManifest(t, readFile(t, name+".in.yaml"))
			graph := Build(snapshot, config.config())
			statuses := graph.Statuses(config.reports(graph))
			checkInvariants(t, graph, statuses)

			got := renderOutcome(t, graph, statuses, config)
			if *update {
				if err := os.WriteFile(filepath.Join("testdata", name+".out.yaml"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(readFile(t, name+".out.yaml"), got); diff != "" {
				t.Errorf("statuses differ (-want +got), rewrite with -update:\n%s", diff)
			}
		})
	}
}

func goldenNames(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = strings.TrimSuffix(filepath.Base(path), ".in.yaml")
	}
	return names
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// goldenOutcome is the content of an out.yaml.
type goldenOutcome struct {
	GatewayClasses map[string]gatewayv1.GatewayClassStatus `json:"gatewayClasses,omitempty"`
	AddressPools   map[string]v1alpha1.AddressPoolStatus   `json:"addressPools,omitempty"`
	Gateways       map[string]goldenGateway                `json:"gateways,omitempty"`
	ListenerSets   map[string]gatewayv1.ListenerSetStatus  `json:"listenerSets,omitempty"`
	Routes         map[string]goldenRoute                  `json:"routes,omitempty"`
	Forwarding     map[string]map[string]goldenFrontend    `json:"forwarding,omitempty"`
	Orphans        []string                                `json:"orphans,omitempty"`
}

type goldenFrontend struct {
	Select   string   `json:"select"`
	Backends []string `json:"backends"`
}

type goldenGateway struct {
	Digest    string                  `json:"digest"`            // whether there is one
	Reached   []string                `json:"reached,omitempty"` // of Parameters, unless they are those of a class without any
	Listeners []string                `json:"listeners"`         // of the merged list, with the winner
	Service   *goldenService          `json:"service,omitempty"` // as it is to be
	Status    gatewayv1.GatewayStatus `json:"status"`
}

type goldenService struct {
	Name        string             `json:"name"`
	Labels      map[string]string  `json:"labels"`
	Annotations map[string]string  `json:"annotations"`
	Spec        corev1.ServiceSpec `json:"spec"`
}

type goldenRoute struct {
	Backends []string              `json:"backends,omitempty"`
	Status   gatewayv1.RouteStatus `json:"status"`
}

// renderOutcome renders what was decided, each condition as one line: type,
// status, reason, message and, after the @, the observed generation.
func renderOutcome(t *testing.T, g *Graph, s Statuses, config testConfig) string {
	t.Helper()
	outcome := goldenOutcome{
		GatewayClasses: s.GatewayClasses,
		AddressPools:   s.AddressPools,
		Gateways:       map[string]goldenGateway{},
		ListenerSets:   map[string]gatewayv1.ListenerSetStatus{},
		Routes:         map[string]goldenRoute{},
		Forwarding:     config.forwarding(g),
	}
	for key, status := range s.Gateways {
		gateway := goldenGateway{Digest: "none", Reached: renderParameters(g.Gateways[key].Parameters), Status: status}
		if strings.HasPrefix(g.Gateways[key].Digest, digestVersion) {
			gateway.Digest = "present"
		}
		for _, listener := range g.Gateways[key].Listeners {
			gateway.Listeners = append(gateway.Listeners, renderListener(listener))
		}
		if service := g.Gateways[key].Service(); service != nil {
			gateway.Service = &goldenService{service.Namespace + "/" + service.Name, service.Labels, service.Annotations, service.Spec}
		}
		outcome.Gateways[key.String()] = gateway
	}
	for key, status := range s.ListenerSets {
		outcome.ListenerSets[key.String()] = status
	}
	for key, status := range s.Routes {
		route := goldenRoute{Status: status}
		for _, backend := range g.Routes[key].Backends {
			route.Backends = append(route.Backends, renderBackend(backend))
		}
		outcome.Routes[fmt.Sprintf("%s %s", key.Kind, key.NamespacedName)] = route
	}
	for _, orphan := range g.Orphans {
		outcome.Orphans = append(outcome.Orphans, orphan.Name)
	}
	encoded, err := json.Marshal(outcome)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(encoded, &plain); err != nil {
		t.Fatal(err)
	}
	var rendered strings.Builder
	encoder := yaml.NewEncoder(&rendered)
	encoder.SetIndent(2)
	if err := encoder.Encode(foldConditions(plain)); err != nil {
		t.Fatal(err)
	}
	return rendered.String()
}

// foldConditions replaces every condition in a tree by its one line, and drops
// what is the same everywhere and has a test of its own.
func foldConditions(node any) any {
	switch node := node.(type) {
	case map[string]any:
		if _, isCondition := node["lastTransitionTime"]; isCondition {
			generation, _ := node["observedGeneration"].(float64)
			return fmt.Sprintf("%v %v %v: %v @%.0f", node["type"], node["status"], node["reason"], node["message"], generation)
		}
		delete(node, "supportedFeatures")
		delete(node, "controllerName")
		for key, child := range node {
			node[key] = foldConditions(child)
		}
	case []any:
		for i, child := range node {
			node[i] = foldConditions(child)
		}
	}
	return node
}

func renderParameters(p *Parameters) []string {
	if p.class.Source.Spec.ParametersRef == nil && p.fault.message == "" {
		return nil
	}
	mode := string(p.Mode)
	if p.Frozen {
		mode += ", frozen"
	}
	lines := []string{"mode " + mode}
	if len(p.Families) > 0 {
		lines = append(lines, fmt.Sprintf("families %v", p.Families))
	}
	if p.Nodes != nil {
		lines = append(lines, "nodes "+p.Nodes.String())
	}
	if p.NodeAddressType != "" {
		lines = append(lines, "address type "+string(p.NodeAddressType))
	}
	if p.LoadBalancerClass != "" {
		lines = append(lines, "load balancer class "+p.LoadBalancerClass)
	}
	if p.Mode != v1alpha1.AddressModePool {
		return lines
	}
	for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		var pools []string
		for _, pool := range p.PoolsFor(family) {
			pools = append(pools, pool.Name)
		}
		if len(pools) > 0 {
			lines = append(lines, fmt.Sprintf("%s of %s", family, strings.Join(pools, ", ")))
		}
	}
	for _, addr := range p.Requested {
		if pool, why := p.Admits(addr); pool != nil {
			lines = append(lines, fmt.Sprintf("%s of %s", addr, pool.Name))
		} else {
			lines = append(lines, fmt.Sprintf("not %s: %s", addr, why))
		}
	}
	return lines
}

func renderListener(l *Listener) string {
	name := string(l.Name)
	if l.Set != nil {
		name = l.Set.Key.String() + "/" + name
	}
	switch {
	case !l.Valid:
		return fmt.Sprintf("%s %s %d: not valid", name, l.Protocol, l.Port)
	case l.Winner == nil:
		return fmt.Sprintf("%s %s %d: no route", name, l.Protocol, l.Port)
	default:
		return fmt.Sprintf("%s %s %d: %s %s", name, l.Protocol, l.Port, l.Winner.Key.Kind, l.Winner.Key.NamespacedName)
	}
}

func renderBackend(b BackendRef) string {
	rendered := fmt.Sprintf("%s port %d weight %d", b.Service, b.Port, b.Weight)
	if b.PortName != "" {
		rendered += fmt.Sprintf(" named %s", b.PortName)
	}
	if b.LocalOnly {
		rendered += " local only"
	}
	if b.ClientAffinity {
		rendered += " by client"
	}
	if !b.Valid {
		rendered += ": refused"
	}
	return rendered
}

func renderFrontend(f *rules.Frontend) goldenFrontend {
	rendered := goldenFrontend{Select: f.Select.String()}
	for _, b := range f.Backends {
		var endpoints []string
		for _, e := range b.Endpoints {
			endpoint := e.Addr.String()
			if e.Local {
				endpoint += " (local)"
			}
			endpoints = append(endpoints, endpoint)
		}
		if len(endpoints) == 0 {
			endpoints = []string{"refused"}
		}
		line := fmt.Sprintf("%s weight %d: %s", b.Ref, b.Weight, strings.Join(endpoints, ", "))
		if len(b.Draining) > 0 {
			line += fmt.Sprintf("; draining %v", b.Draining)
		}
		if len(b.Lingering) > 0 {
			line += fmt.Sprintf("; lingering %v", b.Lingering)
		}
		rendered.Backends = append(rendered.Backends, line)
	}
	return rendered
}
