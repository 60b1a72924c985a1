package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/iptables"
	"github.com/portway-dev/portway/rules/nftables"
)

// programmer is what the backends have in common here.
type programmer interface {
	Program(ctx context.Context, state *rules.State) (rules.Results, error)
	Cleanup(ctx context.Context) error
	Close() error
}

// backend is what programs the kernel in a test.
type backend struct {
	name    string
	agent   string                     // its --backend
	variant string                     // of iptables
	open    func() (programmer, error) // on the node of the thread
	lacks   func() error               // why it cannot be had here
}

// The backends, by which the subtests are named. The variants of iptables differ in who
// takes the rules, and little in what becomes of packets: what takes long runs with one.
var (
	nft = backend{
		name: "nftables", agent: "nftables",
		open:  func() (programmer, error) { return nftables.New(nftables.DefaultConfig()) },
		lacks: func() error { return nil },
	}
	iptNFT    = iptablesBackend(iptables.NFT)
	iptLegacy = iptablesBackend(iptables.Legacy)
)

func iptablesBackend(v iptables.Variant) backend {
	c := iptables.DefaultConfig()
	c.Variant = v
	b := backend{
		name: "iptables-" + string(v), agent: "iptables", variant: string(v),
		open: func() (programmer, error) { return iptables.New(c) },
	}
	b.lacks = sync.OnceValue(func() error {
		n, err := netns.New("node")
		if err == nil {
			err = errors.Join(n.Do(func() error { _, err := b.open(); return err }), n.Close())
		}
		return err
	})
	return b
}

// difference is what a test finds with a backend that behaves otherwise, by design.
type difference struct {
	test, backend string
	why           string
	finds         string // pattern of the message with which the test fails
}

// differences is all that iptables does not do as nftables does. A test that is listed
// must fail, and with that message.
var differences = []difference{
	{
		test: "TestUDPFlowStaysWithItsBackend", backend: "iptables-nft",
		why:   "iptables has no hash of the flow: once the kernel has forgotten it, an endpoint is drawn anew",
		finds: `round 1: port \d+ went to \S+, before to`,
	},
	{
		test: "TestForgottenFragmentsReachOneEndpoint", backend: "iptables-nft",
		why:   "iptables has no hash of the flow, see above",
		finds: `\d+ bytes from \S+ to \S+: answered by \S+, before by`,
	},
	{
		test: "TestCleanupLeavesStrangersAlone", backend: "iptables-nft",
		why:   "iptables refuses tables nat and filter of family ip that hold what nft wrote: nothing is programmed, and that is told",
		finds: "iptables cannot read what others wrote: Table `nat' is incompatible, use 'nft' tool",
	},
}

// differsEnv has this program run tests that are listed in differences as if they were not.
const differsEnv = "PORTWAY_TEST_DIFFERENCES"

// trial is a test with one backend.
type trial struct {
	*testing.T
	backend
}

// eachBackend runs a test with nftables and with iptables.
func eachBackend(t *testing.T, test func(trial)) {
	t.Helper()
	run(t, test, nft, iptNFT)
}

// eachVariant runs a test with nftables and with both variants of iptables.
func eachVariant(t *testing.T, test func(trial)) {
	t.Helper()
	run(t, test, nft, iptNFT, iptLegacy)
}

func run(t *testing.T, test func(trial), backends ...backend) {
	t.Helper()
	netns.Require(t)
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			if err := b.lacks(); err != nil {
				netns.Lacks(t, b.name, err) // hack/deps.sh installs it
			}
			listed := slices.IndexFunc(differences, func(d difference) bool { return d.test+"/"+d.backend == t.Name() })
			if listed < 0 || os.Getenv(differsEnv) != "" {
				test(trial{t, b})
				return
			}
			differences[listed].check(t)
		})
	}
}

// check runs the test in a process of its own, as one that fails cannot be called off.
func (d difference) check(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^"+d.test+"$/^"+d.backend+"$")
	cmd.Env = append(os.Environ(), differsEnv+"=1")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("passes; it is listed as one that does not, because %s", d.why)
	case !regexp.MustCompile(d.finds).Match(out):
		t.Errorf("fails, as listed, but does not find %q:\n%s", d.finds, out)
	}
}

// A test that was renamed must not leave the list behind.
func TestDifferencesAreOfTests(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	source := ""
	for _, file := range files {
		source += readFile(t, file)
	}
	for _, d := range differences {
		if !strings.Contains(source, "func "+d.test+"(") {
			t.Errorf("no test %s", d.test)
		}
	}
}

// commands are those of both families, with a suffix such as "-save".
func (b backend) commands(suffix string) []string {
	return []string{"iptables-" + b.variant + suffix, "ip6tables-" + b.variant + suffix}
}

// rounds is how often a test repeats its steps: each runs programs with iptables, and takes
// that much longer.
func (b backend) rounds(n int) int {
	if b.variant == "" {
		return n
	}
	return (n + 1) / 2
}

// hint has agents find the variant, as kubelet does it.
func (b backend) hint(t *testing.T, n *netns.Namespace) {
	t.Helper()
	if b.variant == "" {
		return
	}
	outputOf(t, n, "iptables-"+b.variant, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
}

// ours is what a node has of our rules, without the counters.
func (b backend) ours(t *testing.T, n *netns.Namespace) string {
	t.Helper()
	if b.variant == "" {
		return counters.ReplaceAllString(nftIn(t, n, "list", "table", "inet", "portway"), "")
	}
	var kept []string
	for _, command := range b.commands("-save") {
		for _, table := range []string{"nat", "filter"} {
			for line := range strings.Lines(outputOf(t, n, command, "-t", table)) {
				if strings.Contains(line, "PORTWAY-") {
					line, _, _ = strings.Cut(line, " [")
					kept = append(kept, strings.TrimSpace(line))
				}
			}
		}
	}
	return strings.Join(kept, "\n")
}

// listens reports whether our rules have a listener, and packets find it.
func (b backend) listens(t *testing.T, n *netns.Namespace, at netip.AddrPort) bool {
	t.Helper()
	family := 0
	if at.Addr().Is6() {
		family = 1
	}
	if b.variant == "" {
		name := []string{"listeners4", "listeners6"}[family]
		listing, err := n.Output("nft", "list", "map", "inet", "portway", name) // an error: nothing is there yet
		return err == nil && strings.Contains(listing, fmt.Sprintf("%s . tcp . %d", at.Addr(), at.Port()))
	}
	listing := outputOf(t, n, b.commands("-save")[family], "-t", "nat")
	return strings.Contains(listing, fmt.Sprintf("-d %s -p tcp -m tcp --dport %d ", netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), at.Port())) &&
		strings.Contains(listing, "-A PREROUTING -j PORTWAY-SERVICES")
}

// theirs is the ruleset of somebody who knows nothing of ours and, as firewalld and
// netfilter-persistent do, loads it as a whole.
const theirs = `
*nat
:PREROUTING ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
COMMIT
`

// wipes are scripts that remove our rules as others do: those who clear what they use,
// and those who clear everything.
func (b backend) wipes() [2]string {
	if b.variant == "" {
		return [2]string{"nft delete table inet portway", "nft flush ruleset"}
	}
	var out [2]string
	for i, command := range b.commands("") {
		out[0] += command + " -t nat -F\n"
		out[1] += b.commands("-restore")[i] + " <<end" + theirs + "end\n"
	}
	return out
}

// loadOthers gives a node rules of others in every way there is, a FORWARD that drops
// among them, and the tables that stay once iptables has used them.
func (b backend) loadOthers(t *testing.T, n *netns.Namespace) {
	t.Helper()
	ruleset, variant := foreign, "legacy"
	if b.variant == "nft" { // which could not read what nft wrote into its own tables
		_, ruleset, _ = strings.Cut(foreign, "table inet ")
		ruleset, variant = "table inet "+ruleset, "nft"
	}
	loadRules(t, n, ruleset)
	outputOf(t, n, "sh", "-ec", strings.ReplaceAll(`for f in iptables ip6tables; do
$f-VARIANT -t nat -N KUBE-SERVICES
$f-VARIANT -t nat -A KUBE-SERVICES -p tcp --dport 99 -m comment --comment "a \"b\"" -j RETURN
for c in PREROUTING OUTPUT POSTROUTING; do $f-VARIANT -t nat -A $c -p tcp -j KUBE-SERVICES; done
for c in INPUT FORWARD OUTPUT; do $f-VARIANT -A $c -m conntrack --ctstate ESTABLISHED -j ACCEPT; done
$f-VARIANT -P FORWARD DROP
done`, "VARIANT", variant))
}

// others are all rules of a node, without the counters.
func others(t *testing.T, n *netns.Namespace) string {
	t.Helper()
	all := counters.ReplaceAllString(nftIn(t, n, "list", "ruleset"), "")
	for _, command := range slices.Concat(iptNFT.commands("-save"), iptLegacy.commands("-save")) {
		if strings.Contains(command, "legacy") && !xtables(t, n) {
			continue // to look would make them
		}
		for line := range strings.Lines(outputOf(t, n, command)) {
			if !strings.HasPrefix(line, "#") { // with the time
				line, _, _ = strings.Cut(line, " [")
				all += strings.TrimSpace(line) + "\n"
			}
		}
	}
	return all
}

// xtables reports whether there is a table of iptables-legacy.
func xtables(t *testing.T, n *netns.Namespace) bool {
	t.Helper()
	return outputOf(t, n, "cat", "/proc/net/ip_tables_names") != ""
}
