package rules

// Results is what a backend achieved for one State.
type Results struct {
	// Committed is, per Gateway of the State ("namespace/name"), the digest whose
	// rules are proven to be in the kernel: that of this State, or that of the last
	// one that could be committed. A Gateway that never was is absent.
	Committed map[string]string
	// Errors is, per Gateway, why this State's digest is not committed.
	Errors map[string]error
	// Removed are the Frontends that the kernel held and, by this call, no longer does,
	// in order: their UDP flows would go on for ever. Also those that no State of this
	// process named, and those that others took away and this State does not want back.
	// Each is told once, whether or not the call failed with others.
	Removed []FrontendKey
	// Operations counts the changes sent to the kernel; 0 when it already held
	// this State.
	Operations int
	// Sent and Received count the netlink messages that were exchanged since the last Results,
	// looks at what others did included, and those that begin and end batches and acknowledgements.
	// 0 of a backend whose programs do that.
	Sent, Received int
	// Restored: others had deleted or changed what this backend keeps in the kernel,
	// and it is there again.
	Restored bool
}
