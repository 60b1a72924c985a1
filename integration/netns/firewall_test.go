package netns_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// iptablesIn runs an iptables program on the node.
func (a *agentLab) iptablesIn(program string, args ...string) string {
	a.t.Helper()
	out, err := a.Node.Output(program, args...)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

// savedBy returns what a program saves, without counters and comments.
func (a *agentLab) savedBy(program string) string {
	a.t.Helper()
	var kept []string
	for line := range strings.Lines(a.iptablesIn(program)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line, _, _ = strings.Cut(line, " [")
		kept = append(kept, strings.TrimSpace(line))
	}
	return strings.Join(kept, "\n")
}

// TestAgentOpensAFirewall: with a policy of DROP in FORWARD, as Docker leaves it, our
// flows pass and those of others do not; a reload is made up for within two seconds, and
// --cleanup takes everything back.
func TestAgentOpensAFirewall(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		netns.Lacks(t, "iptables-nft", err) // hack/deps.sh installs it
	}
	a := newAgentLab(t, "tcp-routing.yaml")
	a.iptablesIn("iptables-nft", "-P", "FORWARD", "DROP")
	before := a.savedBy("iptables-nft-save")
	a.start()
	a.ready()
	if tally := count(t, a.Client, rules.TCP, netip.AddrPortFrom(a.Pod("foo-1").Addr4, podPort), 1); tally.Answered() > 0 {
		t.Error("the client reaches a pod by its own address")
	}
	a.iptablesIn("iptables-nft", "-F")
	a.iptablesIn("iptables-nft", "-X")
	took := poll(t, "the way is open again after a reload", func() bool { return a.answers(8080, "foo-") })
	if took > 2*time.Second {
		t.Errorf("open again after %s, want 2 s at most", took)
	}
	t.Logf("open again %s after a reload", took)
	if code, err := a.running.Stop(); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit code %d (%v)", code, err)
	}
	if !a.answers(8080, "foo-") {
		t.Error("the way is closed with the agent")
	}
	if code, stderr := a.end(a.command("--cleanup")); code != 0 {
		t.Errorf("--cleanup: exit code %d\n%s", code, stderr)
	}
	if after := a.savedBy("iptables-nft-save"); after != before {
		t.Errorf("before the agent:\n%s\nafter --cleanup:\n%s", before, after)
	}
}

// TestAgentNamesAForeignDrop: a table of somebody else is not ours to touch.
func TestAgentNamesAForeignDrop(t *testing.T) {
	a := newAgentLab(t, "tcp-routing.yaml")
	loadRules(t, a.Node, "table inet guard {\nchain passing {\ntype filter hook forward priority 0; policy drop;\nct state established,related accept\n}\n}\n")
	a.start()
	poll(t, "the agent names table and chain", func() bool {
		log := a.running.Stderr() + a.running.Stdout()
		return strings.Contains(log, "inet guard") && strings.Contains(log, "chain passing") && strings.Contains(log, "nft insert rule")
	})
	if a.answers(8080, "foo-") {
		t.Error("passes although it is dropped")
	}
	nftIn(t, a.Node, "insert", "rule", "inet", "guard", "passing", "ct", "mark", "and", "0x1000", "==", "0x1000", "accept")
	a.ready()
}
