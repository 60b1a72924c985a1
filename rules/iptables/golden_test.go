package iptables

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

// topologies are shown by one golden file each.
var topologies = map[string]frontends{
	"guide": {
		key("192.0.2.1 tcp 8080"): {Owner: owner("default/my-tcp-gateway", "foo", "default/tcp-app-1"), Backends: []rules.Backend{
			backend("default/my-foo-service", 1, endpoint("10.244.1.10:6000"), endpoint("10.244.1.11:6000")),
		}},
		key("192.0.2.1 tcp 8090"): {Owner: owner("default/my-tcp-gateway", "bar", "default/tcp-app-2"), Backends: []rules.Backend{
			backend("default/my-bar-service", 1, endpoint("10.244.1.20:6000")),
		}},
	},
	"dual-stack": {
		key("192.0.2.1 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("10.244.1.10:8443"), endpoint("10.244.2.10:8443")),
		}},
		key("2001:db8::1 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("[fd00:10:244:1::a]:8443"), endpoint("[fd00:10:244:2::a]:8443")),
		}},
		key("2001:db8::1 udp 443"): {Owner: owner("prod/edge", "quic", "prod/web3"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("[fd00:10:244:1::a]:8443")),
		}},
	},
	"weights-refused-share": {
		key("192.0.2.1 tcp 5432"): {Owner: owner("db/pg", "postgres", "db/canary"), Backends: []rules.Backend{
			backend("db/stable", 3, endpoint("10.244.1.30:5432"), endpoint("10.244.1.31:5432")),
			backend("db/missing", 1),
		}},
	},
	"local-hairpin": {
		key("192.0.2.1 tcp 80"): {Owner: owner("default/gw", "web", "default/web"), Backends: []rules.Backend{
			backend("default/web", 1, endpoint("10.244.2.10:80"), local("10.244.1.10:80")),
		}},
		key("2001:db8::1 tcp 80"): {Owner: owner("default/gw", "web", "default/web"), Backends: []rules.Backend{
			backend("default/web", 1, local("[fd00:10:244:1::a]:80")),
		}},
	},
	"empty-listener": {
		key("192.0.2.1 tcp 8080"): {Owner: owner("default/gw", "unused", "")},
		key("192.0.2.1 udp 8080"): {Owner: owner("default/gw", "all-gone", "default/r"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("default/scaled-to-zero", 1),
		}},
	},
	"affinity": {
		key("192.0.2.1 tcp 3306"): {Owner: owner("db/gw", "mysql", "db/replicas"), Select: rules.ClientHash, Backends: []rules.Backend{
			backend("db/mysql", 9, local("10.244.1.33:3306"), endpoint("10.244.2.33:3306")),
			backend("db/gone", 1),
		}},
	},
	"long-comments": {
		key("192.0.2.1 tcp 1"): {Owner: owner(strings.Repeat("n", 63)+"/"+strings.Repeat("g", 63), "first", "team/route"), Backends: []rules.Backend{
			backend("ns/a", 1, endpoint("10.244.1.1:1")), backend("ns/b", 0, endpoint("10.244.1.2:1")),
		}},
	},
	"exclusive": { // 192.0.2.11 has no listener
		key("192.0.2.10 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("10.244.1.10:8443")),
		}},
		key("2001:db8::10 tcp 443"): {Owner: owner("prod/edge", "tls", "")},
	},
}

// exclusiveAddrs are the addresses of a topology that only we serve.
var exclusiveAddrs = map[string][]netip.Addr{
	"exclusive": {netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::10")},
}

// furtherChains are those of a listener with affinity but for the first of each kind.
var furtherChains = regexp.MustCompile(`(?m)^(:|-A )PORTWAY-\w{16}-(0[1-9a-f]|[1-9a-f]\w?) .*\n`)

// The golden files are what iptables-save prints, the same in both variants, but for most
// chains of listeners with affinity, which have 273.
func TestGolden(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		p := newProgrammer(t, c)
		for name, of := range topologies {
			mustProgram(t, p, stateOf(of).WithExclusive(exclusiveAddrs[name]))
			text := furtherChains.ReplaceAllString(saved(t, ns, c.Variant), "")
			file := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(golden), text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if err := p.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
