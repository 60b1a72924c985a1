package rulestest

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// thread is one way that a packet can take: where it is, and how likely it gets there.
type thread struct {
	Packet
	stack       []position // the rules to go on with; shared with other threads
	rest        words      // of the rule it is at
	probability *big.Rat
}

// nftWalker follows a packet through one base chain and all that this leads to.
type nftWalker struct {
	table *Nftables
	*leaves
	threads []thread // still on their way
}

func (w *nftWalker) walk(chain string, p Packet, probability *big.Rat) error {
	w.threads = []thread{{Packet: p, stack: []position{{chain, 0}}, probability: probability}}
	for range maxSteps {
		last := len(w.threads) - 1
		if last < 0 {
			return nil
		}
		t := w.threads[last]
		w.threads = w.threads[:last]
		if err := w.step(t); err != nil {
			return err
		}
	}
	return errors.New("no end")
}

func (w *nftWalker) goOn(t thread) { w.threads = append(w.threads, t) }

// step does one statement of a rule or, behind its last one, goes to the next rule.
func (w *nftWalker) step(t thread) error {
	if len(t.rest) == 0 {
		return w.nextRule(t)
	}
	rule := t.rest
	if rule[0] == "ip" || rule[0] == "ip6" {
		if err := lookup(w, t); err != nil {
			return fmt.Errorf("%w: %w", rule.unknown(), err)
		}
		return nil
	}
	for _, s := range statements {
		if t.rest.take(s.begin...) {
			if err := s.do(w, t); err != nil {
				return fmt.Errorf("%w: %w", rule.unknown(), err)
			}
			return nil
		}
	}
	return rule.unknown()
}

func (w *nftWalker) nextRule(t thread) error {
	top := len(t.stack) - 1
	at := t.stack[top]
	chain := w.table.chains[at.chain]
	switch {
	case chain == nil:
		return fmt.Errorf("chain %q: there is none", at.chain)
	case at.rule < len(chain.rules):
		t.rest = chain.rules[at.rule]
		t.stack = append(slices.Clone(t.stack[:top]), position{at.chain, at.rule + 1})
		w.goOn(t)
	default:
		return returned(w, t)
	}
	return nil
}

// statement is what a rule consists of. Of a rule that does not match, nothing more is
// done.
type statement struct {
	begin []string
	do    func(*nftWalker, thread) error // reads the rest of it
}

var statements = []statement{
	{[]string{"comment"}, commented},
	{[]string{"counter"}, counted},
	{[]string{"meta", "nfproto"}, ofFamily},
	{[]string{"icmp", "type", "echo-request"}, never},
	{[]string{"icmpv6", "type", "echo-request"}, never},
	{[]string{"fib", "daddr", "type", "local"}, never},
	{[]string{"meta", "l4proto"}, ofProtocol},
	{[]string{"ct", "state", "!", "established"}, always},
	{[]string{"ct", "state"}, inState},
	{[]string{"ct", "status", "!", "confirmed"}, unconfirmed},
	{[]string{"ct", "status", "!", "dnat"}, untranslated},
	{[]string{"ct", "mark", "set", "ct", "mark", "|"}, mark},
	{[]string{"ct", "mark", "&"}, marked},
	{[]string{"dnat", "ip", "to"}, translate},
	{[]string{"dnat", "ip6", "to"}, translate},
	{[]string{"masquerade", "fully-random"}, masquerade},
	{[]string{"reject", "with", "tcp", "reset"}, reset},
	{[]string{"reject"}, unreachable},
	{[]string{"drop"}, drop},
	{[]string{"return"}, returned},
	{[]string{"jump"}, jump},
	{[]string{"goto"}, jumpForGood},
}

// matches goes on with the rule or with the next one.
func (w *nftWalker) matches(t thread, yes bool) {
	if !yes {
		t.rest = nil
	}
	w.goOn(t)
}

func commented(w *nftWalker, t thread) error {
	t.rest.next()
	w.goOn(t)
	return nil
}

func counted(w *nftWalker, t thread) error {
	err := t.rest.counter()
	w.goOn(t)
	return err
}

func ofFamily(w *nftWalker, t thread) error {
	return w.is(t, map[bool]string{false: "ipv4", true: "ipv6"}[t.Dst.Addr().Is6()], "ipv4", "ipv6")
}

func ofProtocol(w *nftWalker, t thread) error { return w.is(t, t.Protocol.String(), "tcp", "udp") }

func inState(w *nftWalker, t thread) error {
	return w.is(t, strings.ToLower(t.State), "new", "invalid")
}

// always: all packets here are the first of their flow, or invalid.
func always(w *nftWalker, t thread) error {
	w.matches(t, true)
	return nil
}

// never: no packet here is of ICMP, or for an address of an interface.
func never(w *nftWalker, t thread) error {
	w.matches(t, false)
	return nil
}

// unconfirmed: no entry is confirmed before its first packet has left the last hook, and an
// invalid packet has none to ask.
func unconfirmed(w *nftWalker, t thread) error {
	w.matches(t, t.State == New)
	return nil
}

// is reads one of the words that may stand there, which is to be the packet's.
func (w *nftWalker) is(t thread, have string, known ...string) error {
	word := t.rest.next()
	if !slices.Contains(known, word) {
		return errSyntax
	}
	w.matches(t, word == have)
	return nil
}

func untranslated(w *nftWalker, t thread) error {
	w.matches(t, !t.Translated)
	return nil
}

func mark(w *nftWalker, t thread) error {
	bits, err := t.rest.number()
	t.CTMark |= bits
	w.goOn(t)
	return err
}

func marked(w *nftWalker, t thread) error {
	mask, err := t.rest.number()
	if err != nil {
		return err
	}
	if !t.rest.take("==") {
		return errSyntax
	}
	value, err := t.rest.number()
	w.matches(t, t.CTMark&mask == value)
	return err
}

func masquerade(w *nftWalker, t thread) error {
	t.Masqueraded = true
	w.leave(t.Packet, Accepted, t.probability)
	return nil
}

func reset(w *nftWalker, t thread) error {
	if Refusal(t.Protocol) != Reset {
		return errors.New("it is not of TCP")
	}
	w.leave(t.Packet, Reset, t.probability)
	return nil
}

// unreachable: without a word of what, it is of the port.
func unreachable(w *nftWalker, t thread) error {
	verdict := Unreachable
	if t.Dst.Addr().Is6() {
		verdict = Unreachable6
	}
	w.leave(t.Packet, verdict, t.probability)
	return nil
}

func drop(w *nftWalker, t thread) error {
	w.leave(t.Packet, Dropped, t.probability)
	return nil
}

// returned goes back to who jumped. A base chain accepts what comes to its end.
func returned(w *nftWalker, t thread) error {
	top := len(t.stack) - 1
	if top == 0 {
		w.leave(t.Packet, Accepted, t.probability)
		return nil
	}
	t.stack, t.rest = t.stack[:top], nil
	w.goOn(t)
	return nil
}

// maxJumps is NFT_JUMP_STACK_SIZE.
const maxJumps = 16

func jump(w *nftWalker, t thread) error {
	if len(t.stack) > maxJumps {
		return errors.New("too many jumps")
	}
	t.stack = append(slices.Clone(t.stack), position{t.rest.next(), 0})
	t.rest = nil
	w.goOn(t)
	return nil
}

func jumpForGood(w *nftWalker, t thread) error {
	w.enter(t, t.rest.next())
	return nil
}

// enter goes to a chain that returns to where this one would.
func (w *nftWalker) enter(t thread, chain string) {
	t.stack = append(slices.Clone(t.stack[:len(t.stack)-1]), position{chain, 0})
	t.rest = nil
	w.goOn(t)
}

// lookup looks a key up in a set, which has it or not, or in a map that leads to a chain.
func lookup(w *nftWalker, t thread) error {
	k, err := readKey(&t.rest, t.Packet)
	if err != nil {
		return err
	}
	kind := ""
	if t.rest.take("vmap") {
		kind = verdictType
	}
	choices, err := w.table.find(k, t.rest.next(), kind)
	if err != nil {
		return err
	}
	for _, c := range choices {
		next := t.chosen(k, c)
		if c.found && kind == verdictType {
			w.enter(next, c.chain)
		} else {
			w.matches(next, c.found)
		}
	}
	return nil
}

// translate looks up where to. Without an element the rule does not match.
func translate(w *nftWalker, t thread) error {
	k, err := readKey(&t.rest, t.Packet)
	if err != nil {
		return err
	}
	if !t.rest.take("map") || t.Translated {
		return errSyntax
	}
	choices, err := w.table.find(k, t.rest.next(), endpointType)
	if err != nil {
		return err
	}
	for _, c := range choices {
		next := t.chosen(k, c)
		if !c.found {
			w.matches(next, false)
			continue
		}
		next.Dst, next.Translated = c.to, true
		w.leave(next.Packet, Accepted, next.probability)
	}
	return nil
}

// chosen is the thread of one result of a lookup.
func (t thread) chosen(k nftKey, c choice) thread {
	t.Hashed += k.hashed
	t.probability = new(big.Rat).Mul(t.probability, c.probability)
	return t
}
