package firewall

// certainty is what can be known, without seeing the packet, of whether a rule
// matches it.
type certainty uint8

const (
	never certainty = iota
	maybe
	always
)

// verdict is what a rule does with a packet that it matches.
type verdict uint8

const (
	proceed verdict = iota // nothing that decides
	accept
	drop // or reject
	jump
	goTo
	leave // return to the calling chain
)

// markChange is what a rule does to the bit of our flows in the conntrack mark.
type markChange uint8

const (
	markKept   markChange = iota
	markLost              // of our flows
	markForged            // set on flows that are not ours
)

// effect is one of the things a rule may do with a packet.
type effect struct {
	when    certainty
	verdict verdict
	target  string // of jump and goTo
	mark    markChange
	// chosen says that, of what the rule asks, only who the client is cannot be known
	// here: it stops those whom somebody chose to stop.
	chosen bool
}

// rule is one of a chain, whatever program wrote it.
type rule struct {
	handle  uint64 // of nf_tables; 0: not known
	text    string // for people
	effects func(*packet) []effect
}

// chain is a list of rules; those with a hook are where packets enter.
type chain struct {
	name       string
	hook       hook
	nat        bool // sees the first packet of a flow only
	priority   int32
	policyDrop bool
	rules      []rule
}

// table holds chains that jump to each other.
type table struct {
	family string // as nft names it: ip, ip6 or inet
	name   string
	chains []*chain
}

func (t *table) chain(name string) *chain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

// hook is where a base chain sees packets.
type hook uint8

const (
	noHook hook = iota
	prerouting
	input
	forward
	output
	postrouting
)

// packet stands for all packets of our flows that are alike in what is known of
// them. It goes in the direction of the flow: what lets the first and the later ones
// pass to the endpoint is for all practical purposes written for replies, too.
type packet struct {
	hook        hook
	v6          bool
	protocol    byte
	established bool
	mark        uint32 // the bit that our flows carry
	bare        bool   // does not carry it yet
	to          *destinations
}

// stop is where a packet ends.
type stop struct {
	chain   string
	rule    *rule // nil: the policy
	certain bool
}

const (
	// maxDepth is how deep the kernel lets chains call each other (NFT_JUMP_STACK_SIZE).
	maxDepth = 16
	// maxSteps bounds a walk: chains that call each other many times over would make
	// it endless. What lies behind is taken to pass.
	maxSteps = 50_000
)

// walker follows a packet through a table.
type walker struct {
	table  *table
	packet *packet
	index  map[string]*chain
	steps  int
	// accepted says that the packet may have been let pass by now.
	accepted bool
	found    *stop // the first certain one, else the first
	// changes of our mark bit, by who makes them.
	changes map[*rule]markChange
}

func (t *table) walker(p *packet) *walker {
	w := &walker{table: t, packet: p, index: make(map[string]*chain, len(t.chains)), changes: map[*rule]markChange{}}
	for _, c := range t.chains {
		w.index[c.name] = c
	}
	return w
}

// walk reports where a packet may end that enters at a base chain; nil: nowhere.
func (t *table) walk(base *chain, p *packet) *stop {
	w := t.walker(p)
	w.enter(base)
	return w.found
}

func (w *walker) enter(base *chain) {
	if w.run(base, false, maxDepth) && base.policyDrop {
		w.stop(base, nil, !w.accepted)
	}
}

func (w *walker) stop(c *chain, r *rule, certain bool) {
	if w.found == nil || certain && !w.found.certain {
		w.found = &stop{chain: c.name, rule: r, certain: certain}
	}
}

// run goes through a chain that not all packets reach if some says so. It reports
// whether any come out at its end.
func (w *walker) run(c *chain, some bool, depth int) bool {
	for i := range c.rules {
		r := &c.rules[i]
		if w.steps++; w.steps > maxSteps {
			return false
		}
		for _, e := range r.effects(w.packet) {
			if e.when == never {
				continue
			}
			if e.mark != markKept {
				w.changes[r] = e.mark
			}
			ends, comesOut := w.apply(c, r, e, some, depth)
			if ends {
				return comesOut
			}
			if e.when == maybe && (e.verdict == leave || e.verdict == goTo) {
				some = true
			}
		}
	}
	return true
}

// apply does what a rule does. The first result says that nothing goes on in the
// chain behind it, the second whether something goes on in the calling one.
func (w *walker) apply(c *chain, r *rule, e effect, some bool, depth int) (ends, comesOut bool) {
	certain := e.when == always
	switch e.verdict {
	case accept:
		w.accepted = true
		return certain, false
	case drop:
		if certain || !e.chosen {
			w.stop(c, r, certain && !some && !w.accepted)
		}
		return certain, false
	case leave:
		return certain, true
	case jump, goTo:
		out := true
		if target := w.index[e.target]; target != nil && depth > 0 {
			out = w.run(target, some || !certain, depth-1)
		}
		return certain && (e.verdict == goTo || !out), out
	default:
		return false, false
	}
}
