package cluster

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	gatewayHead = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\nspec:\n  gatewayClassName: c\n"
	routeHead   = "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: r}\nspec:\n"
	oldRoute    = "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: r}\nspec:\n"
	oneListener = "  listeners:\n  - {name: l, protocol: TCP, port: 80}\n"
	oneParent   = "  parentRefs:\n  - {name: web}\n"
	serviceHead = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n"
	sliceHead   = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\n"
	longName    = "a23456789012345678901234567890123456789012345678901234567890123"
)

// TestBadInput lists what a file can have wrong, with the whole message.
func TestBadInput(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"unknown field": {
			gatewayHead + "  listeners:\n  - name: l\n    prot: TCP\n    port: 80\n",
			"m.yaml:8: Gateway default/web: spec.listeners[0].prot: unknown field; did you mean \"protocol\"?",
		},
		"unknown field without a likeness": {
			gatewayHead + oneListener + "  xyz: 1\n",
			"m.yaml:8: Gateway default/web: spec.xyz: unknown field; remove it, the fields here are addresses, allowedListeners, defaultScope, gatewayClassName, infrastructure, listeners, tls",
		},
		"unknown field in the second document": {
			gatewayHead + oneListener + "---\n" + routeHead + oneParent + "  rules:\n  - backendRefs:\n    - {name: s, port: 1, wieght: 2}\n",
			"m.yaml:17: TCPRoute default/r: spec.rules[0].backendRefs[0].wieght: unknown field; did you mean \"weight\"?",
		},
		"wrong kind": {
			"apiVersion: gateway.networking.k8s.io/v1\nkind: Gatway\nmetadata: {name: web}\n",
			"m.yaml:2: Gatway default/web: unknown kind \"Gatway\" of apiVersion \"gateway.networking.k8s.io/v1\"; did you mean \"Gateway\"? the kinds that are read are AddressPool, EndpointSlice, Gateway, GatewayClass, GatewayParameters, ListenerSet, Namespace, ReferenceGrant, Service, TCPRoute, UDPRoute and List",
		},
		"wrong version": {
			"apiVersion: gateway.networking.k8s.io/v2\nkind: Gateway\nmetadata: {name: web}\n",
			"m.yaml:2: Gateway default/web: Gateway of apiVersion \"gateway.networking.k8s.io/v2\" is not read; use apiVersion gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
		},
		"another group's kind of the same name": {
			"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: web}\n",
			"m.yaml:2: Gateway default/web: Gateway of apiVersion \"networking.istio.io/v1\" is not read; use apiVersion gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
		},
		"no kind":       {"# nothing\n\nfoo: bar\n", "m.yaml:3: kind is missing; every object needs apiVersion, kind and metadata"},
		"not an object": {"- a\n- b\n", "m.yaml:1: must be an API object with apiVersion, kind and metadata, not a list"},
		"no name": {
			strings.Replace(gatewayHead, "{name: web}", "{namespace: x}", 1) + oneListener,
			"m.yaml:3: Gateway: metadata.name: Required value: give the object a name",
		},
		"port out of range": {
			gatewayHead + "  listeners:\n  - name: l\n    protocol: TCP\n    port: 70000\n",
			"m.yaml:9: Gateway default/web: spec.listeners[0].port: Invalid value: 70000: must be 1 to 65535",
		},
		"port missing": {
			gatewayHead + "  listeners:\n  - name: l\n    protocol: TCP\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: Invalid value: 0: must be 1 to 65535",
		},
		"port not a number": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: http}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: must be a whole number, not \"http\"",
		},
		"port beyond 32 bits": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: 99999999999}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: the number 99999999999 is out of range; it must be -2147483648 to 2147483647",
		},
		"port not whole": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: 6000.0}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: must be a whole number, not 6000.0",
		},
		"port true": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: true}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: must be a whole number, not true",
		},
		"port beyond 64 bits": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: 99999999999999999999}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].port: the number 99999999999999999999 is out of range; it must be -2147483648 to 2147483647",
		},
		"generation beyond 64 bits": {
			strings.Replace(gatewayHead, "{name: web}", "{name: web, generation: 9223372036854775808}", 1) + oneListener,
			"m.yaml:3: Gateway default/web: metadata.generation: the number 9223372036854775808 is out of range; it must be -9223372036854775808 to 9223372036854775807",
		},
		"weight not whole": {
			routeHead + oneParent + "  rules:\n  - backendRefs:\n    - {name: s, port: 1, weight: 1.5}\n",
			"m.yaml:9: TCPRoute default/r: spec.rules[0].backendRefs[0].weight: must be a whole number, not 1.5",
		},
		"number where a mapping belongs": {
			gatewayHead + oneListener + "  infrastructure: 5\n",
			"m.yaml:8: Gateway default/web: spec.infrastructure: must be a mapping of fields, not 5",
		},
		"number where a boolean belongs": {
			serviceHead + "  publishNotReadyAddresses: 1\n  ports: [{port: 1}]\n",
			"m.yaml:5: Service default/s: spec.publishNotReadyAddresses: must be true or false, not 1",
		},
		"name not a string": {
			gatewayHead + "  listeners:\n  - {name: 1, protocol: TCP, port: 80}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].name: must be a string, not the number 1; put it in quotes",
		},
		"mapping where a list belongs": {
			gatewayHead + "  listeners:\n    name: l\n",
			"m.yaml:7: Gateway default/web: spec.listeners: must be a list (lines that begin with \"- \"), not a mapping",
		},
		"no listeners": {
			gatewayHead,
			"m.yaml:4: Gateway default/web: spec.listeners: Required value: at least one listener is needed",
		},
		"64 listeners": {gatewayHead + "  listeners:\n" + repeat(64, "  - {name: l%[1]d, protocol: TCP, port: 1%03[1]d}\n"), ""},
		"65 listeners": {
			gatewayHead + "  listeners:\n" + repeat(65, "  - {name: l%[1]d, protocol: TCP, port: 1%03[1]d}\n"),
			"m.yaml:6: Gateway default/web: spec.listeners: Too many: 65: at most 64 allowed; move the others to a ListenerSet or a second Gateway",
		},
		"listener name twice": {
			gatewayHead + oneListener + "  - {name: l, protocol: TCP, port: 81}\n",
			"m.yaml:8: Gateway default/web: spec.listeners[1].name: Invalid value: \"l\": is already the name of listeners[0]; give every listener its own",
		},
		"port and protocol twice": {
			gatewayHead + oneListener + "  - {name: m, protocol: TCP, port: 80}\n",
			"m.yaml:8: Gateway default/web: spec.listeners[1].port: Invalid value: 80: listeners[0] already has this port with protocol TCP; choose another port",
		},
		"TCP and UDP on one port": {gatewayHead + oneListener + "  - {name: m, protocol: UDP, port: 80}\n", ""},
		"over-long listener name": {
			gatewayHead + "  listeners:\n  - {name: " + strings.Repeat("a", 254) + ", protocol: TCP, port: 80}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].name: Invalid value: \"" + strings.Repeat("a", 254) + "\": must be no more than 253 characters",
		},
		"over-long object name": {
			strings.Replace(gatewayHead, "web", strings.Repeat("a", 254), 1) + oneListener,
			"m.yaml:3: Gateway default/" + strings.Repeat("a", 254) + ": metadata.name: Invalid value: \"" + strings.Repeat("a", 254) + "\": must be no more than 253 characters",
		},
		"over-long Service name": {
			strings.Replace(serviceHead, "name: s", "name: "+longName+"4", 1) + "  ports: [{port: 1}]\n",
			"m.yaml:3: Service default/" + longName + "4: metadata.name: Invalid value: \"" + longName + "4\": must be no more than 63 characters",
		},
		"hostname on TCP": {
			gatewayHead + "  listeners:\n  - {name: l, protocol: TCP, port: 80, hostname: a.b}\n",
			"m.yaml:7: Gateway default/web: spec.listeners[0].hostname: Forbidden: TCP and UDP carry no host name; remove it",
		},
		"unknown namespaces policy": {
			gatewayHead + "  listeners:\n  - name: l\n    protocol: TCP\n    port: 80\n    allowedRoutes:\n      namespaces:\n        from: Any\n",
			"m.yaml:12: Gateway default/web: spec.listeners[0].allowedRoutes.namespaces.from: Unsupported value: \"Any\": supported values: \"All\", \"Selector\", \"Same\"",
		},
		"17 addresses": {
			gatewayHead + oneListener + "  addresses:\n" + repeat(17, "  - value: 192.0.2.%d\n"),
			"m.yaml:8: Gateway default/web: spec.addresses: Too many: 17: at most 16 allowed; remove the others or use a second Gateway",
		},
		"address not an address": {
			gatewayHead + oneListener + "  addresses:\n  - value: my-host\n",
			"m.yaml:9: Gateway default/web: spec.addresses[0].value: Invalid value: \"my-host\": must be an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1",
		},
		"16 backendRefs": {routeHead + oneParent + "  rules:\n  - backendRefs:\n" + repeat(16, "    - {name: s%d, port: 1}\n"), ""},
		"17 backendRefs": {
			routeHead + oneParent + "  rules:\n  - backendRefs:\n" + repeat(17, "    - {name: s%d, port: 1}\n"),
			"m.yaml:8: TCPRoute default/r: spec.rules[0].backendRefs: Too many: 17: at most 16 allowed; put the endpoints of several backends behind one Service",
		},
		"no backendRefs": {
			routeHead + oneParent + "  rules:\n  - name: x\n",
			"m.yaml:8: TCPRoute default/r: spec.rules[0].backendRefs: Required value: name at least one backend",
		},
		"no port": {
			routeHead + oneParent + "  rules:\n  - backendRefs:\n    - name: s\n",
			"m.yaml:9: TCPRoute default/r: spec.rules[0].backendRefs[0].port: Required value: give the port of the Service",
		},
		"weight out of range": {
			routeHead + oneParent + "  rules:\n  - backendRefs:\n    - {name: s, port: 1, weight: 1000001}\n",
			"m.yaml:9: TCPRoute default/r: spec.rules[0].backendRefs[0].weight: Invalid value: 1000001: must be 0 to 1000000",
		},
		"two rules": {
			routeHead + oneParent + "  rules:\n  - backendRefs: [{name: s, port: 1}]\n  - backendRefs: [{name: s, port: 1}]\n",
			"m.yaml:7: TCPRoute default/r: spec.rules: Too many: 2: at most 1 allowed; put all backendRefs into one rule, or write a route for each",
		},
		"two rules in v1alpha2": {
			oldRoute + oneParent + "  rules:\n  - backendRefs: [{name: s, port: 1}]\n  - backendRefs: [{name: s, port: 1}]\n", "",
		},
		"no rules": {
			routeHead + oneParent,
			"m.yaml:4: TCPRoute default/r: spec.rules: Required value: one rule is needed",
		},
		"two port-only refs": {
			routeHead + "  parentRefs:\n  - {name: web, port: 80}\n  - {name: web, port: 81}\n  rules:\n  - backendRefs: [{name: s, port: 1}]\n",
			"m.yaml:7: TCPRoute default/r: spec.parentRefs[1].sectionName: Required value: parentRefs[0] names the same Gateway web; give a sectionName in each of them (a port is not enough), or write a second route",
		},
		"the same section twice": {
			routeHead + "  parentRefs:\n  - {name: web, sectionName: a}\n  - {name: web, sectionName: a}\n  rules:\n  - backendRefs: [{name: s, port: 1}]\n",
			"m.yaml:7: TCPRoute default/r: spec.parentRefs[1].sectionName: Invalid value: \"a\": is already in parentRefs[0]; remove one of them",
		},
		"33 parentRefs": {
			routeHead + "  parentRefs:\n" + repeat(33, "  - {name: g%d}\n") + "  rules:\n  - backendRefs: [{name: s, port: 1}]\n",
			"m.yaml:5: TCPRoute default/r: spec.parentRefs: Too many: 33: at most 32 allowed; move the others to a second route",
		},
		"Service port": {
			serviceHead + "  ports:\n  - port: 0\n",
			"m.yaml:6: Service default/s: spec.ports[0].port: Invalid value: 0: must be 1 to 65535",
		},
		"Service ports without names": {
			serviceHead + "  ports:\n  - port: 1\n  - {name: b, port: 2}\n",
			"m.yaml:6: Service default/s: spec.ports[0].name: Required value: a Service with several ports names each of them",
		},
		"slice without a Service": {
			strings.Replace(sliceHead, ", labels: {kubernetes.io/service-name: s}", "", 1) + "addressType: IPv4\nendpoints: []\nports: []\n",
			"m.yaml:3: EndpointSlice default/s-1: metadata.labels[kubernetes.io/service-name]: Required value: say which Service these endpoints belong to",
		},
		"slice of the other family": {
			sliceHead + "addressType: IPv4\nports: []\nendpoints:\n- addresses: [\"2001:db8::1\"]\n",
			"m.yaml:7: EndpointSlice default/s-1: endpoints[0].addresses[0]: Invalid value: \"2001:db8::1\": must be an IPv4 address, as addressType says",
		},
		"1001 endpoints": {
			sliceHead + "addressType: IPv4\nports: []\nendpoints:\n" + strings.Repeat("- addresses: [10.0.0.1]\n", 1001),
			"m.yaml:6: EndpointSlice default/s-1: endpoints: Too many: 1001: at most 1000 allowed; move the others to a second EndpointSlice of the same Service",
		},
		"namespace on a cluster-scoped kind": {
			"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c, namespace: x}\nspec: {controllerName: a.b/c}\n",
			"m.yaml:3: GatewayClass c: metadata.namespace: Forbidden: not allowed on this type",
		},
		"controller name": {
			"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: portway}\n",
			"m.yaml:4: GatewayClass c: spec.controllerName: Invalid value: \"portway\": must be a domain and a path of at most 253 characters, such as portway.dev/gateway-controller",
		},
		"duplicate key": {
			gatewayHead + oneListener + "  gatewayClassName: d\n",
			"m.yaml:8: Gateway default/web: spec.gatewayClassName: given twice; keep one of them, the first is on line 5",
		},
		"duplicate object": {
			"# first\n" + gatewayHead + oneListener + "---\n" + gatewayHead + oneListener,
			"m.yaml:10: Gateway default/web: is also in m.yaml:2; remove or rename one of them",
		},
		"broken time": {
			strings.Replace(gatewayHead, "{name: web}", "{name: web, creationTimestamp: yesterday}", 1) + oneListener,
			"m.yaml:3: Gateway default/web: metadata.creationTimestamp: cannot be read as a time such as 2006-01-02T15:04:05Z: parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loadText(t, test.text)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestBrokenYAML checks the line of texts that are no YAML: the one a person has
// to look at.
func TestBrokenYAML(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"tab": {
			gatewayHead + "\tlisteners: []\n",
			"m.yaml:6: not YAML: found a tab character that violates indentation; use spaces",
		},
		"missing colon": {
			gatewayHead + "  listeners\n  addresses: []\n",
			"m.yaml:6: not YAML: could not find expected ':'; a key needs a colon and a space behind it",
		},
		"bad indentation": {
			gatewayHead + "  listeners:\n  - name: l\n    port: 80\n   protocol: TCP\n",
			"m.yaml:9: not YAML: did not find expected key; check the indentation of this line against the lines above",
		},
		"deeper than a value": {
			gatewayHead + "    listeners: []\n",
			"m.yaml:6: not YAML: mapping values are not allowed in this context; check the indentation, or quote the value if it holds a colon",
		},
		"open quote": {
			gatewayHead + "  a: \"b\n  c: d\n  e: f\n",
			"m.yaml:6: not YAML: found unexpected end of stream; a quote that is opened here is never closed",
		},
		"open bracket behind a bracket over lines": {
			gatewayHead + "  a: [1,\n    2,\n    3]\n  b: [1\n",
			"m.yaml:9: not YAML: did not find expected ',' or ']'; check the indentation of this line against the lines above",
		},
		"after good documents": {
			gatewayHead + oneListener + "---\na: b\n c: d\n",
			"m.yaml:10: not YAML: mapping values are not allowed in this context; check the indentation, or quote the value if it holds a colon",
		},
		"unknown anchor": {
			gatewayHead + "  listeners: *x\n",
			"m.yaml:6: not YAML: unknown anchor 'x' referenced; define the anchor in the same document, before its use",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loadText(t, test.text)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAllProblemsAreReported wants every problem of every file, in order.
func TestAllProblemsAreReported(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "d/b.yaml", gatewayHead+"  foo: 1\n"+"---\na: {\n---\n"+routeHead)
	write(t, "d/a.yaml", gatewayYAML("x", 0)+"---\n"+gatewayYAML("y", 0))
	_, err := Load([]string{"d"})
	want := `d/a.yaml:10: Gateway default/x: spec.listeners[0].port: Invalid value: 0: must be 1 to 65535
d/a.yaml:21: Gateway default/y: spec.listeners[0].port: Invalid value: 0: must be 1 to 65535
d/b.yaml:6: Gateway default/web: spec.foo: unknown field; remove it, the fields here are addresses, allowedListeners, defaultScope, gatewayClassName, infrastructure, listeners, tls
d/b.yaml:8: not YAML: did not find expected node content; check the indentation of this line against the lines above
d/b.yaml:13: TCPRoute default/r: spec.rules: Required value: one rule is needed`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
