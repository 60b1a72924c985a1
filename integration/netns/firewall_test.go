package netns_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// healTimeout is when tests give up waiting for what a look makes good, once a second. It
// is long for a busy machine, and short for a pass that comes anyway, after 30 s.
const healTimeout = 10 * time.Second

// dropped is how long to wait for what a firewall drops.
const dropped = 300 * time.Millisecond

// passes reports whether a flow to a port of the guide is answered by foo.
func (a *agentLab) passes() bool {
	a.t.Helper()
	answer, err := a.Client.Ask(rules.TCP, nodePort(8080), dropped)
	return err == nil && strings.HasPrefix(answer.Name, "foo-")
}

// TestAgentMendsItsRules: what others flush is in place again soon after, without a change
// that would have it programmed. The agent looks once a second, see lookInterval there.
func TestAgentMendsItsRules(t *testing.T) { eachVariant(t, testAgentMendsItsRules) }

func testAgentMendsItsRules(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	a.start()
	a.ready()
	for i, wipe := range b.wipes() {
		outputOf(t, a.Node, "sh", "-ec", wipe)
		pollFor(t, healTimeout, "the agent mends what this did: "+wipe, func() bool {
			log := a.running.Stderr() + a.running.Stdout()
			return strings.Count(log, "Somebody else deleted or changed our rules") > i && a.passes()
		})
	}
}

// TestAgentOpensAFirewall: with a policy of DROP in FORWARD, as Docker leaves it, our
// flows pass and those of others do not; a reload of everything is made up for, and
// --cleanup takes everything back.
func TestAgentOpensAFirewall(t *testing.T) {
	for _, c := range []struct{ b, firewall backend }{{nft, iptNFT}, {nft, iptLegacy}, {iptNFT, iptNFT}, {iptLegacy, iptLegacy}} {
		t.Run(c.b.name+" beside "+c.firewall.name, func(t *testing.T) { testAgentOpensAFirewall(trial{t, c.b}, c.firewall) })
	}
}

func testAgentOpensAFirewall(on trial, firewall backend) {
	t, b := on.T, on.backend
	if err := firewall.lacks(); err != nil {
		netns.Lacks(t, firewall.name, err)
	}
	a := newAgentLab(t, b, "tcp-routing.yaml")
	// The tables stay once iptables has used them.
	outputOf(t, a.Node, "sh", "-ec", firewall.wipes()[1])
	for _, command := range firewall.commands("") {
		outputOf(t, a.Node, command, "-P", "FORWARD", "DROP")
	}
	dir := t.TempDir()
	outputOf(t, a.Node, "sh", "-ec", strings.Join(firewall.commands("-save"), " > "+dir+"/4\n")+" > "+dir+"/6")
	reload := func() {
		outputOf(t, a.Node, "sh", "-ec", strings.Join(firewall.commands("-restore"), " < "+dir+"/4\n")+" < "+dir+"/6")
	}
	reload() // makes built-in chains that nobody used
	before := others(t, a.Node)
	a.start()
	pollFor(t, healTimeout, "our flows pass", a.passes)
	if _, err := a.Client.Ask(rules.TCP, netip.AddrPortFrom(a.Pod("foo-1").Addr4, podPort), dropped); err == nil {
		t.Error("the client reaches a pod by its own address")
	}
	reload()
	pollFor(t, healTimeout, "the way is open again after a reload", a.passes)
	if code, err := a.running.Stop(); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit code %d (%v)", code, err)
	}
	if !a.passes() {
		t.Error("the way is closed with the agent")
	}
	if code, stderr := a.end(a.command("--cleanup")); code != 0 {
		t.Errorf("--cleanup: exit code %d\n%s", code, stderr)
	}
	if diff := cmp.Diff(before, others(t, a.Node)); diff != "" {
		t.Errorf("rules of others (-before the agent +after --cleanup):\n%s", diff)
	}
}

// TestAgentNamesAForeignDrop: a table of somebody else is not ours to touch.
func TestAgentNamesAForeignDrop(t *testing.T) { eachBackend(t, testAgentNamesAForeignDrop) }

func testAgentNamesAForeignDrop(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	loadRules(t, a.Node, "table inet guard {\nchain passing {\ntype filter hook forward priority 0\nct state established accept\nct state new drop\n}\n}\n")
	a.start()
	pollFor(t, healTimeout, "the agent names table, chain, rule and cure", func() bool {
		for line := range strings.Lines(a.running.Stderr() + a.running.Stdout()) {
			if strings.Contains(line, "inet guard") && strings.Contains(line, "chain passing") &&
				strings.Contains(line, "ct state new drop") && strings.Contains(line, "nft insert rule") {
				return true
			}
		}
		return false
	})
	if a.passes() {
		t.Error("passes although it is dropped")
	}
	nftIn(t, a.Node, "insert", "rule", "inet", "guard", "passing", "ct", "mark", "and", "0x1000", "==", "0x1000", "accept")
	poll(t, "our flows pass", a.passes)
}
