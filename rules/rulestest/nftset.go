package rulestest

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nftSet is a set or a map.
type nftSet struct {
	name       string
	key, value []string // types of the fields
	interval   bool
	elements   map[string][]nftElement // by all fields of the key but a drawn one
}

// drawnType is the type of a number that a rule draws. Such a field is the last of a key.
const drawnType = "mark"

// What a map leads to.
const (
	verdictType  = "verdict"
	endpointType = "endpoint" // an address of the key's family and a port
)

// kind is what a map leads to, "" for a set.
func (s *nftSet) kind() string {
	switch {
	case s.value == nil:
		return ""
	case slices.Equal(s.value, []string{verdictType}):
		return verdictType
	case slices.Equal(s.value, []string{s.key[0], "inet_service"}):
		return endpointType
	}
	return "unknown"
}

// nftElement has the drawn numbers first to last, both 0 where none is drawn.
type nftElement struct {
	first, last uint32
	nftValue
}

// nftValue is what an element of a map leads to.
type nftValue struct {
	chain string         // goto
	to    netip.AddrPort // dnat
}

// readSet reads what is behind "set" or "map".
func readSet(w *words) (*nftSet, error) {
	s := &nftSet{name: w.next(), elements: make(map[string][]nftElement)}
	if !w.take("{", "\n", "type") {
		return s, w.unknown()
	}
	s.key = readTypes(w)
	if w.take(":") {
		s.value = readTypes(w)
	}
	for !w.take("}", "\n") {
		switch {
		case w.take("\n"), w.take("counter", "\n"):
		case w.take("flags", "interval", "\n"):
			s.interval = true
		case w.take("comment"):
			w.next()
		case w.take("elements", "=", "{"):
			if err := s.readElements(w); err != nil {
				return s, err
			}
		default:
			return s, w.unknown()
		}
	}
	return s, s.check()
}

// readTypes reads "ipv4_addr . inet_service".
func readTypes(w *words) []string {
	types := []string{w.next()}
	for w.take(".") {
		types = append(types, w.next())
	}
	return types
}

func (s *nftSet) readElements(w *words) error {
	for !w.take("}", "\n") {
		if w.take(",") || w.take("\n") {
			continue
		}
		rest := *w
		if err := s.readElement(w); err != nil {
			return fmt.Errorf("%w: %w", rest.unknown(), err)
		}
	}
	return nil
}

func (s *nftSet) readElement(w *words) (err error) {
	var e nftElement
	var key []string
	for i, kind := range s.key {
		if i > 0 && !w.take(".") {
			return errSyntax
		}
		if kind == drawnType {
			e.first, e.last, err = s.numbers(w.next())
		} else {
			var field string
			field, err = canonical(kind, w.next())
			key = append(key, field)
		}
		if err != nil {
			return err
		}
	}
	if w.take("counter") {
		if err := w.counter(); err != nil {
			return err
		}
	}
	if w.take("comment") {
		w.next()
	}
	if e.nftValue, err = s.readValue(w); err != nil {
		return err
	}
	at := strings.Join(key, " ")
	s.elements[at] = append(s.elements[at], e)
	return nil
}

// numbers reads "0x00000003" or an interval of such.
func (s *nftSet) numbers(text string) (first, last uint32, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	a, err := strconv.ParseUint(from, 0, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(to, 0, 32)
	if err == nil && (a > b || ranged && !s.interval) {
		err = errSyntax
	}
	return uint32(a), uint32(b), err
}

// readValue reads ": goto refuse" or ": 10.0.0.1 . 80", and nothing in a set.
func (s *nftSet) readValue(w *words) (v nftValue, err error) {
	switch s.kind() {
	case "":
	case verdictType:
		if !w.take(":", "goto") {
			return v, errSyntax
		}
		v.chain = w.next()
	case endpointType:
		if !w.take(":") {
			return v, errSyntax
		}
		addr, err := address(s.value[0], w.next())
		if err != nil || !w.take(".") {
			return v, errors.Join(errSyntax, err)
		}
		port, err := strconv.ParseUint(w.next(), 10, 16)
		v.to = netip.AddrPortFrom(addr, uint16(port))
		return v, err
	default:
		return v, fmt.Errorf("value of type %q", s.value)
	}
	return v, nil
}

// address reads one of type ipv4_addr or ipv6_addr.
func address(kind, text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil && addr.Is4() != (kind == "ipv4_addr") {
		err = fmt.Errorf("%s is no %s", text, kind)
	}
	return addr, err
}

// canonical is a field of a type, always in the same words.
func canonical(kind, text string) (string, error) {
	switch kind {
	case "ipv4_addr", "ipv6_addr":
		addr, err := address(kind, text)
		return addr.String(), err
	case "inet_proto":
		if text == "tcp" || text == "udp" {
			return text, nil
		}
	case "inet_service":
		port, err := strconv.ParseUint(text, 10, 16)
		return strconv.FormatUint(port, 10), err
	}
	return "", fmt.Errorf("%q as %s", text, kind)
}

// check says which elements are in each other's way.
func (s *nftSet) check() error {
	if i := slices.Index(s.key, drawnType); i >= 0 && i != len(s.key)-1 {
		return fmt.Errorf("key of type %q: not understood", s.key)
	}
	for at, list := range s.elements {
		slices.SortFunc(list, func(a, b nftElement) int { return cmp.Compare(a.first, b.first) })
		for i := range list[1:] {
			if list[i].last >= list[i+1].first {
				return fmt.Errorf("%s: two elements for number %d", at, list[i].last)
			}
		}
	}
	return nil
}

// choice is one thing that a lookup can lead to.
type choice struct {
	nftValue
	found       bool
	probability *big.Rat
}

// find looks a key up. Of the numbers below draws, each is as likely as the others; 0: the
// key has no drawn number.
func (s *nftSet) find(key string, draws uint32) []choice {
	total := max(draws, 1)
	counts := make(map[nftValue]uint32)
	var order []nftValue
	left := total
	for _, e := range s.elements[key] {
		if e.first >= total {
			continue
		}
		if counts[e.nftValue] == 0 {
			order = append(order, e.nftValue)
		}
		n := min(e.last, total-1) - e.first + 1
		counts[e.nftValue] += n
		left -= n
	}
	var out []choice
	for _, v := range order {
		out = append(out, choice{v, true, big.NewRat(int64(counts[v]), int64(total))})
	}
	if left > 0 {
		out = append(out, choice{probability: big.NewRat(int64(left), int64(total))})
	}
	return out
}
