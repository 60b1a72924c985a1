package announce

import (
	"net/netip"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

// Desired is what is to be announced, as this node sees it.
type Desired struct {
	Addresses map[netip.Addr]Address
	// Members are the addresses of the nodes that should take part, one of each and of
	// the family of Config.Bind; this node's own may be among them.
	Members []netip.Addr
}

// Address is one that some node is to answer for.
type Address struct {
	// Interfaces as in layer2.Address.
	Interfaces []string
	// Ready: this node may own it, as far as its caller knows: the configuration admits
	// it, its rules are in the kernel, and there is an endpoint here if there has to be
	// one. What becomes false moves, what becomes true does not.
	Ready bool
}

// Owner says who answers for an address.
type Owner struct {
	Address netip.Addr
	// Node is empty when nobody is ready, or nobody has been elected yet.
	Node string
	// Since is when it made its claim; zero when it has not yet.
	Since time.Time
	Phase owner.Phase
	// Stranger has the address, if this node is the owner and in a conflict.
	Stranger *layer2.Stranger
	// Missing says why this node cannot own it; empty: it can, or its caller says no.
	Missing string
}

// ChangeKind says what happened to an address.
type ChangeKind int

const (
	// Taken says that this node answers; Node is who did before, if anybody.
	Taken ChangeKind = iota
	// Yielded says that this node answers no more, as Node does.
	Yielded
	// SplitBrain says that this node has answered and Node has, too, with the older claim.
	// Node goes on, and this node has stopped.
	SplitBrain
	// ConflictBegan says that a Stranger has the address, so that nobody of us answers.
	ConflictBegan
	// ConflictEnded says that this node answers again.
	ConflictEnded
)

// String returns the kind as one word.
func (k ChangeKind) String() string {
	return [...]string{"Taken", "Yielded", "SplitBrain", "ConflictBegan", "ConflictEnded"}[k]
}

// Change is something that happened to an address on this node.
type Change struct {
	Kind     ChangeKind
	Address  netip.Addr
	Node     string
	Stranger *layer2.Stranger
	At       time.Time
}
