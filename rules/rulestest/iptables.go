package rulestest

import (
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Ruleset is the chains of each table of iptables.
type Ruleset map[string]map[string][][]string // table → chain → rules → words

// ParseIptables reads the input of iptables-restore.
func ParseIptables(text string) (Ruleset, error) {
	set := make(Ruleset)
	var table map[string][][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words, err := split(line)
		switch {
		case err != nil:
			return nil, err
		case len(words) == 0 || line == "COMMIT" || line[0] == '#':
		case line[0] == '*':
			if table = set[line[1:]]; table == nil {
				table = make(map[string][][]string)
				set[line[1:]] = table
			}
		case line[0] == ':':
			table[words[0][1:]] = nil
		case words[0] == "-A" && len(words) > 1:
			table[words[1]] = append(table[words[1]], words[2:])
		case words[0] == "-I" && len(words) > 1:
			table[words[1]] = slices.Insert(table[words[1]], 0, words[2:])
		default:
			return nil, fmt.Errorf("line %q: not understood", line)
		}
	}
	return set, nil
}

// split cuts a line into words, of which some are in quotes.
func split(line string) ([]string, error) {
	var words []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	if strings.Count(line, `"`)%2 != 0 {
		return nil, fmt.Errorf("line %q: quotes do not end", line)
	}
	return words, nil
}

// walker follows one packet through one table.
type walker struct {
	chains map[string][][]string
	leaves
	steps int
}

// hashed are, per seed of xt_cluster, the number of a packet, once it is asked for.
type hashed map[string]int

// Walk returns all that can happen to a packet in a hook's chain of a table.
func (s Ruleset) Walk(table, chain string, p Packet) ([]Leaf, error) {
	w := &walker{chains: s[table]}
	err := w.walk([]position{{chain, 0}}, p, hashed{}, big.NewRat(1, 1))
	return w.list, err
}

func (w *walker) walk(stack []position, p Packet, known hashed, probability *big.Rat) error {
	for probability.Sign() > 0 {
		if w.steps++; w.steps > maxSteps {
			return fmt.Errorf("chain %s: no end", stack[0].chain)
		}
		top := &stack[len(stack)-1]
		list := w.chains[top.chain]
		if top.rule == len(list) {
			if stack = stack[:len(stack)-1]; len(stack) == 0 {
				w.leave(p, Accepted, probability)
				return nil
			}
			continue
		}
		words := list[top.rule]
		r, err := match(words, p, known)
		if r.seed != "" && err == nil {
			return w.branch(stack, p, known, r, probability)
		}
		if err != nil {
			return fmt.Errorf("chain %s, rule %q: %w", top.chain, words, err)
		}
		top.rule++
		if r.chance.Sign() == 0 || len(r.target) == 0 {
			continue
		}
		if err := w.take(slices.Clone(stack), r.target, p, known, new(big.Rat).Mul(probability, r.chance)); err != nil {
			return err
		}
		probability = new(big.Rat).Mul(probability, new(big.Rat).Sub(big.NewRat(1, 1), r.chance))
	}
	return nil
}

// branch tries a rule again with each number that a packet may have by a hash.
func (w *walker) branch(stack []position, p Packet, known hashed, r result, probability *big.Rat) error {
	for number := range r.nodes {
		next := maps.Clone(known)
		next[r.seed] = number
		if err := w.walk(slices.Clone(stack), p, next, new(big.Rat).Mul(probability, big.NewRat(1, int64(r.nodes)))); err != nil {
			return err
		}
	}
	return nil
}

// take does what a rule's target says with the packets that match, and goes on.
func (w *walker) take(stack []position, target []string, p Packet, known hashed, probability *big.Rat) error {
	if _, ours := w.chains[target[1]]; ours {
		if target[0] == "-g" {
			stack = stack[:len(stack)-1]
		}
		return w.walk(append(stack, position{target[1], 0}), p, known, probability)
	}
	switch args := strings.Join(target[1:], " "); target[1] {
	case "ACCEPT":
		w.leave(p, Accepted, probability)
		return nil
	case "DROP":
		w.leave(p, Dropped, probability)
		return nil
	case "REJECT":
		w.leave(p, Verdict(args), probability)
		return nil
	case "RETURN":
		if stack = stack[:len(stack)-1]; len(stack) == 0 {
			w.leave(p, Accepted, probability)
			return nil
		}
	case "MASQUERADE":
		p.Masqueraded = true
		w.leave(p, Accepted, probability)
		return nil
	case "DNAT":
		to, err := netip.ParseAddrPort(target[len(target)-1])
		if err != nil {
			return err
		}
		p.Dst, p.Translated = to, true
		w.leave(p, Accepted, probability)
		return nil
	case "MARK", "CONNMARK":
		value, mask, err := masked(target[len(target)-1])
		if err != nil || target[2] != "--set-xmark" {
			return fmt.Errorf("target %q: not understood: %w", args, err)
		}
		if target[1] == "MARK" {
			p.Mark = p.Mark&^mask ^ value
		} else {
			p.CTMark = p.CTMark&^mask ^ value
		}
	default:
		return fmt.Errorf("target %q: not understood", args)
	}
	return w.walk(stack, p, known, probability)
}

// result is what a rule's matches say of a packet.
type result struct {
	chance *big.Rat
	target []string // what follows
	seed   string   // of a hash that the packet's number is not known of yet
	nodes  int      // the numbers there are
}

// match tells how a rule matches a packet.
func match(words []string, p Packet, known hashed) (result, error) {
	r := result{chance: big.NewRat(1, 1)}
	not, module, nodes, set := false, "", 0, uint64(0)
	for len(words) > 0 {
		word := words[0]
		switch word {
		case "!":
			not, words = true, words[1:]
			continue
		case "-j", "-g":
			r.target = words
			return r, nil
		}
		if len(words) < 2 {
			return r, fmt.Errorf("%q is without a value", word)
		}
		value := words[1]
		words = words[2:]
		var err error
		matches := !not
		switch word {
		case "-m":
			module = value
			continue
		case "--probability":
			r.chance, err = drawn(value)
		case "--cluster-total-nodes":
			nodes, err = strconv.Atoi(value)
		case "--cluster-local-nodemask":
			set, err = strconv.ParseUint(value, 0, 32)
		case "--cluster-hash-seed":
			number, told := known[value]
			if !told {
				return result{seed: value, nodes: nodes}, nil
			}
			matches = set>>number&1 == 1
		default:
			matches, err = matchOne(module, word, value, p)
		}
		if err != nil {
			return r, err
		}
		if matches == not {
			return result{chance: new(big.Rat)}, nil
		}
		not = false
	}
	return r, nil
}

func matchOne(module, word, value string, p Packet) (bool, error) {
	switch word {
	case "--comment":
		return true, nil
	case "--mode":
		return value == "random", nil
	case "-p":
		return value == p.Protocol.String(), nil
	case "-s", "-d":
		prefix, err := netip.ParsePrefix(value)
		addr := p.Dst.Addr()
		if word == "-s" {
			addr = p.Src.Addr()
		}
		return prefix.Contains(addr), err
	case "--sport":
		return within(p.Src.Port(), value)
	case "--dport":
		return within(p.Dst.Port(), value)
	case "--mark":
		want, mask, err := masked(value)
		mark := p.Mark
		if module == "connmark" {
			mark = p.CTMark
		}
		return mark&mask == want, err
	case "--ctstate":
		states := strings.Split(value, ",")
		return slices.Contains(states, p.State) || slices.Contains(states, "DNAT") && p.Translated, nil
	case "--dst-type":
		return false, wantValue(value, "LOCAL") // no address of a random State is the node's
	}
	return false, fmt.Errorf("match %q: not understood", word)
}

// within reports whether a port is the one, or in the range "80:90", that text says.
func within(port uint16, text string) (bool, error) {
	from, to, ranged := strings.Cut(text, ":")
	if !ranged {
		to = from
	}
	first, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return false, err
	}
	last, err := strconv.ParseUint(to, 10, 16)
	return first <= uint64(port) && uint64(port) <= last, err
}

// drawn is the probability of a number below value among 2³¹, rounded as iptables does.
func drawn(value string) (*big.Rat, error) {
	f, err := strconv.ParseFloat(value, 64)
	const draws = 1 << 31
	return big.NewRat(int64(f*draws+0.5), draws), err
}

// masked reads "0x40/0x40".
func masked(text string) (value, mask uint32, err error) {
	_, err = fmt.Sscanf(text, "0x%x/0x%x", &value, &mask)
	return value, mask, err
}
