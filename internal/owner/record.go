package owner

import (
	"cmp"
	"net/netip"
	"slices"
)

// Phase is what became of a claim.
type Phase uint8

const (
	// Pending means that the owner does not answer yet.
	Pending Phase = iota
	// Answering means that it does.
	Answering
	// Conflict means that it does not, as somebody outside of the cluster does.
	Conflict
	phases
)

// Claim is what a node says of an address it owns, or gives up as soon as the next
// owner answers.
type Claim struct {
	Address netip.Addr
	Stamp   uint64 // when it was made, see the package's documentation
	Phase   Phase
}

// Record is what one node says of itself. It is immutable: its writer makes a new one.
type Record struct {
	Node string
	// Start and Version order the Records of a node: Start is when it began to write
	// them, in ms of Unix time, and Version counts from there.
	Start, Version uint64
	// Settled: it knows enough of the others to claim what nobody owns.
	Settled bool
	// Prepared: Ready is what it is going to be; before, it is empty because the node
	// has only just started.
	Prepared bool
	// Draining: it owns only what no other node is ready for.
	Draining bool
	// Leaving: it gives up everything, and will be gone without being missed.
	Leaving bool
	// MACs it answers with, which are no strangers'.
	MACs [][6]byte
	// Ready are the addresses it may own.
	Ready Set
	// Claims by address.
	Claims []Claim
}

// Newer reports whether the Record replaces another of the same node.
func (r *Record) Newer(than *Record) bool {
	return than == nil || cmp.Or(cmp.Compare(r.Start, than.Start), cmp.Compare(r.Version, than.Version)) > 0
}

// Repeats reports whether the Record says the same as another, whatever their versions.
func (r *Record) Repeats(o *Record) bool {
	return o != nil && r.Settled == o.Settled && r.Prepared == o.Prepared && r.Draining == o.Draining && r.Leaving == o.Leaving &&
		slices.Equal(r.MACs, o.MACs) && r.Ready.Equal(o.Ready) && slices.Equal(r.Claims, o.Claims)
}
