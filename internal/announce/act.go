package announce

import (
	"net/netip"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

// act does what the decision on one address asks of this node.
func (c *course) act(v view, out *outcome, address netip.Addr, a owner.Assignment, k *known) {
	mine := c.claims[address]
	switch {
	case a.Owner == c.node:
		mine = c.keep(v, address, mine, k)
	case mine == nil:
	case a.Owner == "":
		// Nobody can take it. Who leaves answers to the end; who is not ready for it
		// does not, and keeps the claim for when it is again.
		mine.answer = mine.answer && c.leaving
	default:
		mine = c.yield(v, out, address, mine, a.Owner, k)
	}
	if mine != nil {
		c.tell(v, out, address, mine)
	}
	if mine != nil && mine.answer {
		out.answer[address] = layer2.Address{Interfaces: c.addresses[address].Interfaces, Probe: mine.probe}
	}
}

// keep claims an address, or goes on with it.
func (c *course) keep(v view, address netip.Addr, mine *claim, k *known) *claim {
	if mine == nil {
		if !c.settled || c.unripe(v, address, k) {
			return nil
		}
		mine = &claim{stamp: max(uint64(v.now.UnixMilli()), k.highest+1)}
		c.claims[address] = mine
	}
	if !mine.answer {
		mine.answer = true
		mine.from, mine.probe = c.predecessor(k)
	}
	return mine
}

// ripen is how long an address that nobody has ever answered for is waited with: all nodes
// hear of it at about the same time, and who hears of it first should not get all
// there is.
const ripen = 500 * time.Millisecond

func (c *course) unripe(v view, address netip.Addr, k *known) bool {
	return len(k.bids) == 0 && k.last == "" && v.now.Sub(c.readySince[address]) < ripen
}

// predecessor is who answered for an address before, and whether a stranger may have it:
// not while one of us answers for it, nor when one did who is gone since.
func (c *course) predecessor(k *known) (node string, probe bool) {
	for i, bid := range k.bids {
		if bid.Node != c.node && k.phases[i] == owner.Answering {
			return bid.Node, false
		}
	}
	return k.last, k.last == "" || k.lastPhase != owner.Answering
}

// yield gives an address up once its owner answers.
func (c *course) yield(v view, out *outcome, address netip.Addr, mine *claim, to string, k *known) *claim {
	theirs, _ := k.phase(to)
	if mine.phase == owner.Answering && theirs == owner.Pending {
		return mine
	}
	delete(c.claims, address)
	if mine.phase == owner.Pending {
		return nil
	}
	kind := Yielded
	if mine.phase == owner.Answering && c.eligible(v, address, c.node) {
		kind = SplitBrain
	}
	out.changes = append(out.changes, Change{Kind: kind, Address: address, Node: to, At: v.now})
	return nil
}

// tell reports what layer 2 has made of a claim since the last time.
func (c *course) tell(v view, out *outcome, address netip.Addr, mine *claim) {
	change := Change{Address: address, Node: mine.from, At: v.now}
	switch {
	case mine.phase == mine.told || mine.phase == owner.Pending && mine.answer:
		return
	case mine.phase == owner.Conflict:
		change.Kind, change.Stranger, change.Node = ConflictBegan, v.statuses[address].Stranger, ""
	case mine.told == owner.Conflict:
		change.Kind, change.Node = ConflictEnded, ""
	case mine.phase == owner.Answering:
		change.Kind = Taken
	}
	mine.told = mine.phase
	if mine.phase != owner.Pending {
		out.changes = append(out.changes, change)
	}
}
