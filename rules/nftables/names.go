package nftables

import (
	"fmt"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/portway-dev/portway/rules"
)

// maxComment is the length in bytes up to which nft itself accepts a comment
// (NFTNL_UDATA_COMMENT_MAXLEN); the kernel would take 254.
const maxComment = 128

// shorten makes a text fit into a comment: in its middle, as both ends of a name
// tell most, eight hex digits of a hash of the whole take the place of what is too
// much, so that two long names stay different. nft prints comments between quotes
// and knows no escapes, so quotes, backslashes and control characters, which no
// API name holds, become "_".
func shorten(text string) string {
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r == 0x7f || r == utf8.RuneError {
			return '_'
		}
		return r
	}, text)
	if len(plain) <= maxComment {
		return plain
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	head := maxComment / 2
	tail := len(plain) - (maxComment - head - len("~00000000~"))
	for !utf8.RuneStart(plain[head]) {
		head--
	}
	for !utf8.RuneStart(plain[tail]) {
		tail++
	}
	return fmt.Sprintf("%s~%08x~%s", plain[:head], h.Sum32(), plain[tail:])
}

// listenerComment names the Listener that an element serves and the route on it:
// "namespace/gateway/listener route".
func listenerComment(o rules.Owner) string {
	if o.Route == "" {
		return shorten(o.Gateway + "/" + o.Listener)
	}
	return shorten(o.Gateway + "/" + o.Listener + " " + o.Route)
}

// slotComment names the endpoint a slot leads to: "namespace/service pod".
func slotComment(s rules.Slot) string {
	if s.Endpoint.Name == "" {
		return shorten(s.Backend.Ref)
	}
	return shorten(s.Backend.Ref + " " + s.Endpoint.Name)
}

// appendSlotComment appends slotComment(s), for nearly all slots without making it first.
func appendSlotComment(buf []byte, s rules.Slot) []byte {
	ref, name := s.Backend.Ref, s.Endpoint.Name
	if len(ref)+1+len(name) > maxComment || !plain(ref) || !plain(name) {
		return append(buf, slotComment(s)...)
	}
	buf = append(buf, ref...)
	if name != "" {
		buf = append(append(buf, ' '), name...)
	}
	return buf
}

// plain reports whether a text has nothing but ASCII that comments can hold.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return true
}

// chainID is a chain that a listener can lead to, small enough to keep one for
// each listener; see chainName.
type chainID uint16

const (
	chainNone   chainID = iota // no element
	chainRefuse                // nothing to forward to
	chainDraw                  // a part is refused before a slot is picked
	chainClient                // client-N, the one with rules.ClientSlots
	chainRung                  // random-N and flow-N, two for each rung of the ladder
	// What a read-back element leads to when it is no chain of ours: one that another build has
	// for slots, or anything else.
	chainFormer  chainID = 0xfffe
	chainForeign chainID = 0xffff
)

// The chains that are not made per rung.
const (
	servicesChain         = "services"
	refuseChain           = "refuse"
	drawChain             = "draw"
	exclusiveChain        = "exclusive"
	unownedChain          = "unowned"
	unestablishedChain    = "unestablished"
	invalidChain          = "invalid"
	preroutingChain       = "prerouting"
	outputChain           = "output"
	postroutingChain      = "postrouting"
	filterPreroutingChain = "filter-prerouting"
	filterOutputChain     = "filter-output"
)

var (
	rungs      = rules.Ladder()
	rungIndex  = indexRungs()
	chainNames = nameChains()
	chainIDs   = numberChains()
)

func indexRungs() map[int]int {
	index := make(map[int]int, len(rungs))
	for i, n := range rungs {
		index[n] = i
	}
	return index
}

// slotChain is the chain that picks among n slots, n being a rung of the ladder, with
// ClientHash rules.ClientSlots.
func slotChain(selection rules.Selection, n int) chainID {
	if selection == rules.ClientHash {
		return chainClient
	}
	return chainRung + 2*chainID(rungIndex[n]) + chainID(selection)
}

// width tells which of its family's maps of slots a listener uses, by their number.
//
// With every element that is added to a map the kernel checks each rule that looks the map
// up (nft_add_set_elem): 20 ns times the chains of the ladder, which for one map of all
// slots was two thirds of what a load took. Most listeners have few slots, and of the rungs
// that have few there are few.
type width uint8

const (
	narrow width = iota
	wide
	widths
)

// narrowSlots is the most slots of a listener that is narrow. Tests make the table of a build
// with one map only.
var narrowSlots = 32

func widthOf(slots int) width {
	if slots <= narrowSlots {
		return narrow
	}
	return wide
}

// slots returns the map, that of IPv4.
func (w width) slots() setID { return [widths]setID{slots4, wideslots4}[w] }

// width is that of the listeners which lead to the chain; narrow where there are no slots.
func (c chainID) width() width {
	switch {
	case c == chainClient:
		return widthOf(rules.ClientSlots)
	case c >= chainRung && int(c) < len(chainNames):
		return widthOf(rungs[(c-chainRung)/2])
	}
	return narrow
}

func nameChains() []string {
	names := []string{
		chainNone: "", chainRefuse: refuseChain, chainDraw: drawChain,
		chainClient: nameChain("client", rules.ClientSlots),
	}
	for _, n := range rungs {
		names = append(names, nameChain("random", n), nameChain("flow", n))
	}
	return names
}

// nameChain names one that picks a slot. Which map it looks up is part of the name, so that
// one of a former build, which looks up another, is a chain beside it until no listener leads
// there any more.
func nameChain(picks string, slots int) string {
	return fmt.Sprintf("%s%s-%d", [widths]string{wide: "wide-"}[widthOf(slots)], picks, slots)
}

func numberChains() map[string]chainID {
	ids := make(map[string]chainID, len(chainNames))
	for id, name := range chainNames {
		ids[name] = chainID(id)
	}
	return ids
}

func (c chainID) String() string {
	if int(c) < len(chainNames) {
		return chainNames[c]
	}
	return "a foreign chain"
}

// setID is one of the maps and sets; those of IPv4 are even, those of IPv6 odd.
type setID uint8

const (
	listeners4 setID = iota
	listeners6
	slots4
	slots6
	wideslots4
	wideslots6
	drawn4
	drawn6
	refused4
	refused6
	exclusive4
	exclusive6
	endpoints4
	endpoints6
	local4
	local6
	hairpin4
	hairpin6
	setCount
)

var setNames = [setCount]string{
	"listeners4", "listeners6", "slots4", "slots6", "wideslots4", "wideslots6", "drawn4", "drawn6",
	"refused4", "refused6", "exclusive4", "exclusive6", "endpoints4", "endpoints6", "local4", "local6", "hairpin4", "hairpin6",
}

func (s setID) String() string { return setNames[s] }

// setComments tell in listings what the sets are for, one for both families.
var setComments = [setCount / 2]string{
	kindListeners: "where new flows to a listener go",
	kindSlots:     "endpoint of each slot of a listener; a missing slot is refused",
	kindWideSlots: "endpoint of each slot of a listener with more than " + fmt.Sprint(narrowSlots) + "; a missing slot is refused",
	kindDrawn:     "where chain draw sends what it does not refuse",
	kindRefused:   "numbers that are refused when chain draw draws them",
	kindExclusive: "addresses that no interface has: what no listener takes is refused",
	kindEndpoints: "all endpoints, also those that get no new flow",
	kindLocal:     "endpoints on this node",
	kindHairpin:   "endpoints on this node, as client and server in one",
}

// setKind is what a set is for, in either family.
type setKind uint8

const (
	kindListeners setKind = iota
	kindSlots
	kindWideSlots
	kindDrawn
	kindRefused
	kindExclusive
	kindEndpoints // this and those behind it: see member
	kindLocal
	kindHairpin
)

func (s setID) kind() setKind { return setKind(s / 2) }

func (s setID) ipv6() bool { return s&1 == 1 }

// of returns the set of the same purpose for the family of an address.
func (s setID) of(ipv6 bool) setID {
	if ipv6 {
		return s | 1
	}
	return s &^ 1
}
