package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// image is what the kernel holds of ours in one family.
type image struct {
	chains   map[place][]string // rules as iptables-save prints them behind the chain's name
	leads    map[place][]string // rules of all other chains that lead to ours
	first    map[place]string   // rules of other chains with nothing before them
	replaced map[place]bool     // chains of ours that print as they never did, see recognise
}

// errIncompatible says that a table holds what only nft writes and reads.
var errIncompatible = errors.New("iptables cannot read what others wrote")

func newImage() image {
	return image{
		chains: make(map[place][]string), leads: make(map[place][]string),
		first: make(map[place]string), replaced: make(map[place]bool),
	}
}

// parse adds what iptables-save printed.
func (m image) parse(saved []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(saved))
	lines.Buffer(nil, 1<<20)
	table := ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.Contains(line, "is incompatible, use 'nft' tool"): // and exits with 0
			return fmt.Errorf("%w: %s", errIncompatible, strings.Trim(line, "# "))
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"+prefix):
			name, _, _ := strings.Cut(line[1:], " ")
			if at := (place{table, name}); ours(name) && m.chains[at] == nil {
				m.chains[at] = []string{}
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[len("-A "):], " ")
			at := place{table, name}
			if ours(name) {
				m.chains[at] = append(m.chains[at], rule)
				continue
			}
			if _, known := m.first[at]; !known {
				m.first[at] = rule
			}
			if leads(rule) {
				m.leads[at] = append(m.leads[at], rule)
			}
		}
	}
	return lines.Err()
}

// leads reports whether a rule jumps to a chain of ours. The target is the last word of
// such a rule, as a jump has no options.
func leads(rule string) bool {
	words := strings.Fields(rule)
	n := len(words)
	return n > 1 && (words[n-2] == "-j" || words[n-2] == "-g") && ours(words[n-1])
}

// has reports whether the chain in the kernel is this one, by its hash and length.
func (m image) has(at place, c chain) bool {
	present := m.chains[at]
	return len(present) == len(c.rules) && len(present) > 0 && hashOf(present[0]) == c.hash && !m.replaced[at]
}

// appearance is how a chain with an order is printed. Versions of iptables differ in that,
// hence it is not known before it was seen.
type appearance struct {
	hash string // in its comment
	text uint64
}

func (m image) appearance(at place) uint64 {
	return maphash.Comparable(printSeed, strings.Join(m.chains[at], "\n"))
}

// appearances returns those of the chains that are as they should be.
func (t *target) appearances(m image) map[place]appearance {
	out := make(map[place]appearance, len(m.chains))
	learn := func(at place, c chain) {
		if m.has(at, c) {
			out[at] = appearance{c.hash, m.appearance(at)}
		}
	}
	for at, c := range t.ordered {
		learn(at, c)
	}
	for _, p := range t.programs {
		for _, c := range p.chains {
			learn(place{natTable, c.name}, c.chain)
		}
	}
	return out
}

// recognise notices chains in which others replaced a rule by another one: they still have
// the comment, and another appearance than a former read has found for it.
func (m image) recognise(former map[place]appearance) {
	for at, was := range former {
		if present := m.chains[at]; len(present) > 0 && hashOf(present[0]) == was.hash && m.appearance(at) != was.text {
			m.replaced[at] = true
		}
	}
}

// service is a rule that leads to a Frontend's chain, and the bucket it is in.
type service struct {
	bucket      string
	rule, chain string
}

// services returns the Frontends that the kernel holds, and what else is in the buckets.
func (m image) services() (of map[rules.FrontendKey]service, foreign []service) {
	of = make(map[rules.FrontendKey]service)
	for at, present := range m.chains {
		if at.table != natTable || !strings.HasPrefix(at.chain, bucketPrefix) {
			continue
		}
		for _, rule := range present {
			key, name, ok := keyOf(rule)
			right, _ := bucket(key)
			if _, twice := of[key]; !ok || twice || right != at.chain {
				foreign = append(foreign, service{at.chain, rule, name})
				continue
			}
			of[key] = service{at.chain, rule, name}
		}
	}
	return of, foreign
}

// serves reports whether a Frontend's chain leads to endpoints.
func (m image) serves(s service) bool {
	return slices.ContainsFunc(m.chains[place{natTable, s.chain}], func(rule string) bool {
		return strings.Contains(rule, "-j DNAT ") || strings.Contains(rule, "-g "+s.chain+"-")
	})
}
