package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	routes   = "../../examples/tcp-routing.yaml"
	byPort   = "../../examples/tcp-routing-by-port.yaml"
	backends = "../../examples/tcp-routing-backends.yaml"
)

func ctl(args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

// file writes a manifest with the example's backends changed.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCheckGuide(t *testing.T) {
	const want = `GatewayClass my-tcp-gateway-class
  Accepted  True  Accepted
Gateway default/my-tcp-gateway at 192.0.2.1, 2001:db8::1
  Accepted    True  Accepted
  Programmed  not evaluated
  listener foo (TCP 8080, routes: 1)
    Accepted      True  Accepted
    ResolvedRefs  True  ResolvedRefs
    Programmed    not evaluated
  listener bar (TCP 8090, routes: 1)
    Accepted      True  Accepted
    ResolvedRefs  True  ResolvedRefs
    Programmed    not evaluated
TCPRoute default/tcp-app-1
  parent Gateway default/my-tcp-gateway section foo
    Accepted      True  Accepted
    ResolvedRefs  True  ResolvedRefs
TCPRoute default/tcp-app-2
  parent Gateway default/my-tcp-gateway section bar
    Accepted      True  Accepted
    ResolvedRefs  True  ResolvedRefs
`
	code, stdout, stderr := ctl("check", "-f", routes, "-f", backends)
	if code != 0 || stderr != "" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if code, stdout, _ := ctl("check", "-f", byPort, "-f", backends); code != 0 || !strings.Contains(stdout, "my-tcp-gateway port 8080") {
		t.Errorf("by port: code %d\n%s", code, stdout)
	}
}

// TestCheckAddresses: the example of addresses is one that works.
func TestCheckAddresses(t *testing.T) {
	code, stdout, stderr := ctl("check", "-f", "../../examples/addresses.yaml")
	if code != 0 || stderr != "" || !strings.Contains(stdout, "Gateway default/dns at 192.0.2.20, 2001:db8::53\n  Accepted                 True  Accepted\n  portway.dev/AddressMode  True  Pool\n") {
		t.Errorf("code %d, stderr %q\n%s", code, stderr, stdout)
	}
}

func TestCheckYAML(t *testing.T) {
	code, stdout, stderr := ctl("check", "-f", routes, "-f", backends, "-o", "yaml", "--node-address", "198.51.100.7")
	if code != 0 || stderr != "" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"value: 198.51.100.7", "apiVersion: gateway.networking.k8s.io/v1alpha2", "'not evaluated: no node was asked'"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "lastTransitionTime") || strings.Contains(stdout, "2001:db8::1") {
		t.Errorf("got\n%s", stdout)
	}
}

// TestCheckBadConditions covers the bad input that is no error of a file but a
// condition.
func TestCheckBadConditions(t *testing.T) {
	good := read(t, routes)
	gateway, _, _ := strings.Cut(good, "---")
	second := strings.Replace(gateway, "name: my-tcp-gateway\n", "name: another\n", 1)
	tests := map[string]struct{ routes, want string }{
		"missing Service": {
			strings.Replace(good, "name: my-foo-service", "name: my-fo-service", 1),
			"!   ResolvedRefs  False  BackendNotFound",
		},
		"two Gateways on one address and port": {good + "---\n" + second, "!   Accepted      False  PortUnavailable"},
		"a port of the node itself":            {strings.Replace(good, "port: 8080", "port: 22", 1), "!   Accepted      False  PortUnavailable"},
		"unsupported protocol":                 {strings.Replace(good, "protocol: TCP", "protocol: SCTP", 1), "!   Accepted      False  UnsupportedProtocol"},
		"two rules in v1alpha2": {
			strings.Replace(good, "  rules:\n", "  rules:\n  - backendRefs: [{name: my-foo-service, port: 6000}]\n", 1),
			"!   Accepted      False  UnsupportedValue",
		},
		"older route wins": {
			good + "---\n" + strings.Replace(good[strings.LastIndex(good, "---")+4:], "name: tcp-app-2", "name: tcp-app-3", 1),
			"!   portway.dev/Superseded  True  OlderRouteWins",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := ctl("check", "-f", file(t, "m.yaml", test.routes), "-f", backends)
			if code != 1 || !strings.HasPrefix(stderr, "portwayctl: bad conditions: ") {
				t.Errorf("code %d, stderr %q", code, stderr)
			}
			if !strings.Contains(stdout, test.want) {
				t.Errorf("no %q in\n%s", test.want, stdout)
			}
		})
	}
}

func TestCheckErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("bad.yaml", []byte("kind: Gatway\n---\na: [\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("none.yaml", []byte("apiVersion: v1\nkind: Secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("orphan.yaml", []byte("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\nspec:\n  gatewayClassName: c\n  listeners: [{name: l, protocol: TCP, port: 80}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want string
	}{
		"no file": {nil, "portwayctl: -f is missing: name the files or directories with the API objects\n"},
		"no path": {[]string{"-f", "x"}, "portwayctl: read manifests x: no such file or directory\n"},
		"broken": {[]string{"-f", "bad.yaml"}, "portwayctl: the manifests are broken:\n" +
			"bad.yaml:1: Gatway: unknown kind \"Gatway\" of no apiVersion; did you mean \"Gateway\"? the kinds that are read are AddressPool, EndpointSlice, Gateway, GatewayClass, GatewayParameters, ListenerSet, Namespace, ReferenceGrant, Service, TCPRoute, UDPRoute and List\n" +
			"bad.yaml:3: not YAML: did not find expected node content; check the indentation of this line against the lines above\n"},
		"nothing": {[]string{"-f", "none.yaml"}, "passed over: none.yaml: Secret\nportwayctl: nothing to serve: no GatewayClass has controllerName portway.dev/gateway-controller\n"},
		"orphan": {[]string{"-f", "orphan.yaml"}, "Gateway default/web is not served: GatewayClass \"c\" does not exist; add it, with controllerName portway.dev/gateway-controller\n" +
			"portwayctl: bad conditions: 0, not served: 1\n"},
		"address":   {[]string{"-f", "none.yaml", "--node-address", "x"}, "portwayctl: --node-address: node address \"x\": must be an address of this node at which others reach it, such as 192.0.2.1 or 2001:db8::1\n"},
		"format":    {[]string{"-f", "none.yaml", "-o", "json"}, "portwayctl: -o \"json\": must be table or yaml\n"},
		"arguments": {[]string{"x.yaml"}, "portwayctl: unknown command \"x.yaml\" for \"portwayctl check\"\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := ctl(append([]string{"check"}, test.args...)...)
			if code != 1 {
				t.Errorf("code %d", code)
			}
			if diff := cmp.Diff(test.want, stderr); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if code, _, stderr := ctl(); code != 1 || !strings.Contains(stderr, "name a command") {
		t.Errorf("no command: code %d, %s", code, stderr)
	}
}

// TestCheckBrokenFile wants the problems of one file and the statuses of the
// others; rules of half the input would only mislead.
func TestCheckBrokenFile(t *testing.T) {
	broken := file(t, "broken.yaml", strings.Replace(read(t, routes), "port: 8080", "port: 8080.5", 1))
	code, stdout, stderr := ctl("check", "-f", broken, "-f", backends)
	if code != 1 || !strings.HasPrefix(stderr, "portwayctl: the manifests are broken:\n"+broken+":") ||
		!strings.HasSuffix(stderr, "must be a whole number, not 8080.5\n") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if want := "GatewayClass my-tcp-gateway-class\n  Accepted  True  Accepted\n"; stdout != want {
		t.Errorf("want\n%s, got\n%s", want, stdout)
	}
	bad := file(t, "bad.yaml", strings.Replace(read(t, routes), "name: my-foo-service", "name: my-fo-service", 1))
	code, stdout, stderr = ctl("check", "-f", bad, "-f", backends, "-f", file(t, "no.yaml", "a: [\n"), "-o", "yaml")
	if code != 1 || !strings.Contains(stderr, "no.yaml:1: not YAML: ") || !strings.HasSuffix(stderr, "\nbad conditions: 1, not served: 0\n") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if !strings.Contains(stdout, "reason: BackendNotFound\n") {
		t.Errorf("got\n%s", stdout)
	}
	if code, stdout, stderr := ctl("render", "-f", routes, "-f", broken); code != 1 || stdout != "" || !strings.HasPrefix(stderr, "portwayctl: the manifests are broken:\n") {
		t.Errorf("render: code %d, stderr %q, stdout\n%s", code, stderr, stdout)
	}
}
