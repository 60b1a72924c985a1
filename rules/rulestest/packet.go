package rulestest

import (
	"math/big"
	"net/netip"

	"github.com/portway-dev/portway/rules"
)

// Packet is a packet on its way through the rules.
type Packet struct {
	Protocol     rules.Protocol
	Src, Dst     netip.AddrPort
	Mark, CTMark uint32
	Translated   bool   // DNAT
	Masqueraded  bool   // SNAT to the node
	State        string // of conntrack: New or Invalid
	// Hashed is what nftables picked the endpoint by a hash of, in nft's words; empty
	// where all was drawn.
	Hashed string
}

// What conntrack says of a packet.
const (
	New     = "NEW" // the first of a flow
	Invalid = "INVALID"
)

// Verdict is how a packet leaves a hook.
type Verdict string

// The verdicts.
const (
	Accepted Verdict = "ACCEPT"
	Dropped  Verdict = "DROP"
	Reset    Verdict = "REJECT --reject-with tcp-reset"
)

// Refusal is the verdict that refuses a new flow.
func Refusal(p rules.Protocol) Verdict {
	if p == rules.TCP {
		return Reset
	}
	return Dropped
}

// Leaf is one thing that can happen to a packet, with its probability.
type Leaf struct {
	Packet
	Verdict
	Probability *big.Rat
}

// leaves are all that can happen to a packet, each thing once.
type leaves struct {
	list  []Leaf
	index map[outcome]int
}

// outcome is a Leaf without its probability.
type outcome struct {
	Packet
	Verdict
}

func (l *leaves) leave(p Packet, v Verdict, probability *big.Rat) {
	o := outcome{p, v}
	i, there := l.index[o]
	if !there {
		if l.index == nil {
			l.index = make(map[outcome]int)
		}
		i = len(l.list)
		l.index[o] = i
		l.list = append(l.list, Leaf{p, v, new(big.Rat)})
	}
	l.list[i].Probability.Add(l.list[i].Probability, probability)
}

// position is a rule of a chain. Behind the last one a packet goes back to who jumped.
type position struct {
	chain string
	rule  int
}

// maxSteps bounds the rules looked at for one packet: chains may not lead in circles.
const maxSteps = 100_000
