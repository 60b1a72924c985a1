package layer2

import "time"

// State is what becomes of an address here.
type State int

const (
	// Waiting means that there is no interface to answer on.
	Waiting State = iota
	// Probing means that whether a stranger has the address is being found out.
	Probing
	// Answering means that whoever asks for the address is answered.
	Answering
	// Conflict means that a stranger has the address, so that nobody is answered.
	Conflict
)

// String returns the state in lower case.
func (s State) String() string {
	return [...]string{"waiting", "probing", "answering", "conflict"}[s]
}

// Stranger is a host outside of the cluster that has said an address is its own.
type Stranger struct {
	MAC       MAC
	Interface string    // where it was heard
	Seen      time.Time // when it last said so
}

// Status is what becomes of one address.
type Status struct {
	State State
	// Since is when the State began.
	Since time.Time
	// Interfaces it is answered on, by name.
	Interfaces []string
	// Missing says why there are none.
	Missing string
	// Stranger is set in a conflict, and while a single claim is being looked into. Of several
	// he is the first one of the conflict that is still there.
	Stranger *Stranger
}

// Counters count since the start.
type Counters struct {
	// Answers to requests and solicitations, by family.
	AnswersIPv4, AnswersIPv6 uint64
	// Announcements and Probes are frames sent on our own account.
	Announcements, Probes uint64
	// Claims are messages of strangers who say that an address of ours is theirs.
	Claims uint64
	// Conflicts are how often an address was given up for that.
	Conflicts uint64
	// SendErrors are frames that the kernel did not take.
	SendErrors uint64
}
