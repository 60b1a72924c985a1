package nftables

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// topologies are shown by one golden file each.
var topologies = map[string]map[rules.FrontendKey]*rules.Frontend{
	"guide": {
		key("192.0.2.1 tcp 8080"): {Owner: owner("default/my-tcp-gateway", "foo", "default/tcp-app-1"), Backends: []rules.Backend{
			backend("default/my-foo-service", 1, endpoint("10.244.1.10:6000", "foo-1"), endpoint("10.244.1.11:6000", "foo-2")),
		}},
		key("192.0.2.1 tcp 8090"): {Owner: owner("default/my-tcp-gateway", "bar", "default/tcp-app-2"), Backends: []rules.Backend{
			backend("default/my-bar-service", 1, endpoint("10.244.1.20:6000", "bar-1")),
		}},
	},
	"dual-stack": {
		key("192.0.2.1 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("10.244.1.10:8443", "web-0"), endpoint("10.244.2.10:8443", "web-1")),
		}},
		key("2001:db8::1 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("[fd00:10:244:1::a]:8443", "web-0"), endpoint("[fd00:10:244:2::a]:8443", "web-1")),
		}},
		key("2001:db8::1 udp 443"): {Owner: owner("prod/edge", "quic", "prod/web3"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("[fd00:10:244:1::a]:8443", "web-0")),
		}},
	},
	"weights-refused-share": {
		key("192.0.2.1 tcp 5432"): {Owner: owner("db/pg", "postgres", "db/canary"), Backends: []rules.Backend{
			backend("db/stable", 3, endpoint("10.244.1.30:5432", "stable-0"), endpoint("10.244.1.31:5432", "stable-1")),
			backend("db/missing", 1),
		}},
	},
	"udp-refused-share": {
		key("192.0.2.1 udp 53"): {Owner: owner("dns/gw", "dns", "dns/zones"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("dns/resolver", 2, endpoint("10.244.1.53:53", "resolver-0"), endpoint("10.244.2.53:53", "resolver-1")),
			backend("dns/gone", 1),
		}},
		key("2001:db8::1 udp 53"): {Owner: owner("dns/gw", "dns", "dns/zones"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("dns/resolver", 2, endpoint("[fd00:10:244:1::35]:53", "resolver-0")),
			backend("dns/gone", 1),
		}},
	},
	"affinity": {
		key("192.0.2.1 tcp 3306"): {Owner: owner("db/gw", "mysql", "db/replicas"), Select: rules.ClientHash, Backends: []rules.Backend{
			backend("db/mysql", 9, local("10.244.1.33:3306", "mysql-0"), endpoint("10.244.2.33:3306", "mysql-1")),
			backend("db/gone", 1),
		}},
		key("2001:db8::1 udp 3306"): {Owner: owner("db/gw", "quic", "db/quic"), Select: rules.ClientHash, Backends: []rules.Backend{
			backend("db/mysql", 1, endpoint("[fd00:10:244:2::21]:3306", "mysql-1")),
		}},
	},
	"local-hairpin": {
		key("192.0.2.1 tcp 80"): {Owner: owner("default/gw", "web", "default/web"), Backends: []rules.Backend{
			backend("default/web", 1, local("10.244.1.10:80", "web-0"), endpoint("10.244.2.10:80", "web-1")),
		}},
		key("2001:db8::1 tcp 80"): {Owner: owner("default/gw", "web", "default/web"), Backends: []rules.Backend{
			backend("default/web", 1, local("[fd00:10:244:1::a]:80", "web-0")),
		}},
	},
	"empty-listener": {
		key("192.0.2.1 tcp 8080"): {Owner: owner("default/gw", "unused", "")},
		key("192.0.2.1 udp 8080"): {Owner: owner("default/gw", "all-gone", "default/r"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("default/scaled-to-zero", 1),
		}},
	},
	"long-comments": {
		key("192.0.2.1 tcp 1"): {Owner: owner(strings.Repeat("n", 63)+"/"+strings.Repeat("g", 63), "first", "team/route"), Backends: []rules.Backend{
			backend(strings.Repeat("n", 63)+"/"+strings.Repeat("s", 63), 1,
				endpoint("10.244.1.1:1", strings.Repeat("p", 60)+"-0"), endpoint("10.244.1.2:1", strings.Repeat("p", 60)+"-1")),
		}},
		key("192.0.2.1 tcp 2"): {Owner: owner(strings.Repeat("n", 63)+"/"+strings.Repeat("g", 63), "second", "team/route")},
	},
	"exclusive": { // 192.0.2.11 has no listener
		key("192.0.2.10 tcp 443"): {Owner: owner("prod/edge", "tls", "prod/web"), Backends: []rules.Backend{
			backend("prod/web", 1, endpoint("10.244.1.10:8443", "web-0")),
		}},
		key("2001:db8::10 tcp 443"): {Owner: owner("prod/edge", "tls", "")},
	},
	"ladder": {},
}

// exclusive are the addresses of a topology that only we serve.
var exclusive = map[string][]netip.Addr{
	"exclusive": {netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::10")},
}

// The golden files are what nft prints, but for the order of elements, which is
// that of a hash table and differs between versions of nft. Chains of the ladder
// that a topology does not use are in ladder.nft only.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, frontends := range topologies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, c := inNamespace(t)
			s := stateOf(frontends).WithExclusive(exclusive[name])
			mustProgram(t, newProgrammer(t, c), s)

			rendered, err := RenderBrief(s, c)
			if name == "ladder" {
				rendered, err = Render(s, c)
			}
			if err != nil {
				t.Fatal(err)
			}
			listed := list(t, ns, "list", "table", "inet", c.Table)
			if name != "ladder" {
				listed = cutLadder(listed)
			}
			if diff := cmp.Diff(canonical(rendered), canonical(listed)); diff != "" {
				t.Errorf("Render and the kernel differ (-rendered +kernel):\n%s", diff)
			}
			compareGolden(t, name, elideSlots(rendered))
		})
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".nft")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// elideSlots shows only the first slots of a ClientHash listener.
func elideSlots(listing string) string {
	const shown = 6
	slot := regexp.MustCompile(`(?m)^.* (\S+ \. \w+ \. \d+) \. 0x([0-9a-f]{8}) comment .*\n`)
	return slot.ReplaceAllStringFunc(listing, func(line string) string {
		m := slot.FindStringSubmatch(line)
		number, err := strconv.ParseUint(m[2], 16, 32)
		switch {
		case err != nil || number < shown || !strings.Contains(listing, fmt.Sprintf("%s . 0x%08x comment", m[1], rules.ClientSlots-1)):
			return line
		case number == shown:
			return fmt.Sprintf("\t\t\t     … and %d more }\n", rules.ClientSlots-shown)
		}
		return ""
	})
}

// cutLadder leaves out the chains of the ladder that no element leads to.
func cutLadder(listing string) string {
	chain := regexp.MustCompile(`(?ms)^\tchain ((?:wide-)?(?:random|flow|client)-\d+) \{\n.*?^\t\}\n\n?`)
	return chain.ReplaceAllStringFunc(listing, func(block string) string {
		name := chain.FindStringSubmatch(block)[1]
		if regexp.MustCompile(`: goto ` + name + `\b`).MatchString(listing) {
			return block
		}
		return ""
	})
}

// canonical puts the elements of each set in order, one on a line.
func canonical(listing string) string {
	return elementList.ReplaceAllStringFunc(listing, func(block string) string {
		return "elements = {\n" + strings.Join(elementsOf(block), "\n") + "\n}\n"
	})
}

// elementList is where a listing has the elements of a set.
var elementList = regexp.MustCompile(`(?s)elements = \{ (.*?) \}\n`)

// elementsOf returns the elements of one set in order.
func elementsOf(block string) []string {
	list := regexp.MustCompile(`,\s+`).Split(elementList.FindStringSubmatch(block)[1], -1)
	slices.Sort(list)
	return list
}

// list returns what nft lists, not torn, see query.elements.
func list(t *testing.T, ns *netns.Namespace, args ...string) string {
	t.Helper()
	var text string
	err := untorn(func() (torn bool, _ error) {
		text = nft(t, ns, args...)
		for _, block := range elementList.FindAllString(text, -1) {
			list := elementsOf(block)
			torn = torn || len(slices.Compact(list)) < len(list)
		}
		return torn, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// nft of some versions aborts on rulesets that the kernel takes; users debug with
// it, so what we program must list, with types, in both formats.
func TestListsInBothFormats(t *testing.T) {
	ns, c := inNamespace(t)
	all := make(map[rules.FrontendKey]*rules.Frontend)
	for _, name := range []string{"affinity", "weights-refused-share", "udp-refused-share", "local-hairpin", "empty-listener"} {
		for k, f := range topologies[name] {
			all[k] = f
		}
	}
	mustProgram(t, newProgrammer(t, c), stateOf(all).WithExclusive(exclusive["exclusive"]))
	text := nft(t, ns, "list", "ruleset")
	for _, want := range []string{
		"type ipv4_addr . inet_proto . inet_service : verdict",
		"type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service",
		"192.0.2.1 . udp . 53 . 0x00000000-0x005ba4ef", // 6 006 000 of 18 018 000 draws
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nft list ruleset does not show %q", want)
		}
	}
	var listing struct {
		Nftables []struct {
			Map *struct {
				Name string
				Type any
			}
			Set *struct {
				Name string
				Type any
			}
		}
	}
	if err := json.Unmarshal([]byte(nft(t, ns, "-j", "list", "ruleset")), &listing); err != nil {
		t.Fatal(err)
	}
	types := make(map[string]string)
	for _, o := range listing.Nftables {
		switch {
		case o.Map != nil:
			types[o.Map.Name] = jsonText(t, o.Map.Type)
		case o.Set != nil:
			types[o.Set.Name] = jsonText(t, o.Set.Type)
		}
	}
	want := map[string]string{
		"listeners4": `["ipv4_addr","inet_proto","inet_service"]`, "listeners6": `["ipv6_addr","inet_proto","inet_service"]`,
		"slots4": `["ipv4_addr","inet_proto","inet_service","mark"]`, "slots6": `["ipv6_addr","inet_proto","inet_service","mark"]`,
		"wideslots4": `["ipv4_addr","inet_proto","inet_service","mark"]`, "wideslots6": `["ipv6_addr","inet_proto","inet_service","mark"]`,
		"drawn4": `["ipv4_addr","inet_proto","inet_service"]`, "drawn6": `["ipv6_addr","inet_proto","inet_service"]`,
		"refused4": `["ipv4_addr","inet_proto","inet_service","mark"]`, "refused6": `["ipv6_addr","inet_proto","inet_service","mark"]`,
		"exclusive4": `"ipv4_addr"`, "exclusive6": `"ipv6_addr"`,
		"endpoints4": `["ipv4_addr","inet_proto","inet_service"]`, "endpoints6": `["ipv6_addr","inet_proto","inet_service"]`,
		"local4": `"ipv4_addr"`, "local6": `"ipv6_addr"`,
		"hairpin4": `["ipv4_addr","ipv4_addr"]`, "hairpin6": `["ipv6_addr","ipv6_addr"]`,
	}
	if diff := cmp.Diff(want, types); diff != "" {
		t.Errorf("types in nft -j list ruleset (-want +got):\n%s", diff)
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
