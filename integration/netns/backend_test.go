package netns_test

import (
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
)

// switchLoad is how many connections are opened while a node has one backend, or changes
// to it: what a second of heavy traffic brings.
const switchLoad = 2000

// TestAgentSwitchesBackends: a node changes from nftables to iptables and back under
// traffic. Nothing is refused, and nothing of the one is left once the other works.
func TestAgentSwitchesBackends(t *testing.T) {
	for _, other := range []backend{iptNFT, iptLegacy} {
		t.Run(other.name, func(t *testing.T) { testAgentSwitchesBackends(trial{t, other}) })
	}
}

func testAgentSwitchesBackends(on trial) {
	t, other := on.T, on.backend
	if err := other.lacks(); err != nil {
		netns.Lacks(t, other.name, err)
	}
	a := newAgentLab(t, nft, "tcp-routing.yaml")
	other.hint(t, a.Node)
	a.start()
	a.ready()
	var loads []*netns.Load
	for range 4 {
		loads = append(loads, a.Client.StartLoad(nodePort(8080)))
	}
	opened := func() (n int64) {
		for _, load := range loads {
			n += load.Opened()
		}
		return n
	}
	flow := func() {
		want := opened() + switchLoad
		pollFor(t, time.Minute, "traffic flows", func() bool { return opened() >= want })
	}
	began := time.Now()
	flow()
	for _, step := range []struct{ from, to backend }{{nft, other}, {other, nft}} {
		if code, err := a.running.Stop(); code != 0 || err != nil {
			t.Errorf("SIGTERM: exit code %d (%v)", code, err)
		}
		a.start("--backend", step.to.agent)
		pollFor(t, healTimeout, "only the rules of "+step.to.name+" are left", func() bool {
			return step.to.listens(t, a.Node, nodePort(8080)) && !step.from.listens(t, a.Node, nodePort(8080))
		})
		flow()
	}
	t.Logf("%d connections/s", opened()*int64(time.Second)/int64(time.Since(began)))
	for _, load := range loads {
		if tally, err := load.Stop(); err != nil || load.Lost() > 0 || tally.Resent > 0 {
			t.Errorf("%d connections lost: %s (%v)", load.Lost(), tally, err)
		}
	}
}
