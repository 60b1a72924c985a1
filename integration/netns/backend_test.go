package netns_test

import (
	"strings"
	"testing"
)

// TestAgentSwitchesBackends: a node changes from nftables to iptables and back under
// traffic. Nothing is refused, and nothing of the one is left once the other works.
func TestAgentSwitchesBackends(t *testing.T) {
	a := newAgentLab(t, "tcp-routing.yaml")
	a.start()
	a.ready()
	load := a.Client.StartLoad(nodePort(8080))
	flow := func() {
		want := load.Opened() + 200
		poll(t, "traffic flows", func() bool { return load.Opened() >= want })
	}
	nftables := func() bool { return strings.Contains(nftIn(t, a.Node, "list", "tables"), "inet portway") }
	iptables := func() bool { return strings.Contains(a.savedBy("iptables-nft-save"), "PORTWAY-SERVICES") }
	flow()
	for _, backend := range []string{"iptables", "nftables"} {
		if code, err := a.running.Stop(); code != 0 || err != nil {
			t.Errorf("SIGTERM: exit code %d (%v)", code, err)
		}
		a.start("--backend", backend)
		poll(t, "only the rules of "+backend+" are left", func() bool {
			return nftables() == (backend == "nftables") && iptables() == (backend == "iptables")
		})
		flow()
	}
	if tally, err := load.Stop(); err != nil || load.Lost() > 0 || tally.Resent > 0 {
		t.Errorf("%d connections lost: %s (%v)", load.Lost(), tally, err)
	}
}

// TestAgentCleanupOfIPTables leaves what others have.
func TestAgentCleanupOfIPTables(t *testing.T) {
	a := newAgentLab(t, "tcp-routing.yaml")
	a.iptablesIn("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "99", "-j", "RETURN")
	a.iptablesIn("iptables-nft", "-P", "FORWARD", "DROP")
	before := a.savedBy("iptables-nft-save")
	a.start("--backend", "iptables")
	a.ready()
	if code, err := a.running.Stop(); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit code %d (%v)", code, err)
	}
	if code, stderr := a.end(a.command("--cleanup")); code != 0 {
		t.Errorf("--cleanup: exit code %d\n%s", code, stderr)
	}
	if after := a.savedBy("iptables-nft-save"); after != before {
		t.Errorf("before the agent:\n%s\nafter --cleanup:\n%s", before, after)
	}
}
