package nftables

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

func TestRestartTouchesNothing(t *testing.T) {
	ns, c := inNamespace(t)
	s := newWorld(6).state().Apply(topologies["affinity"], map[string]string{"db/gw": "d"})
	mustProgram(t, newProgrammer(t, c), s)
	before := nft(t, ns, "--handle", "list", "ruleset") // whatever is made anew has another handle
	p := newProgrammer(t, c)
	if n := mustProgram(t, p, s); n != 0 {
		t.Errorf("%d operations", n)
	}
	if diff := cmp.Diff(before, nft(t, ns, "--handle", "list", "ruleset")); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if s := p.Stats(); s.ReadBacks != 1 || s.Failures != 0 {
		t.Errorf("%+v, want that it was read back once", s)
	}
}

func TestAdoptSweepsLeftovers(t *testing.T) {
	ns, c := inNamespace(t)
	mustProgram(t, newProgrammer(t, c), newWorld(3).state())
	for _, command := range []string{
		"add chain inet portway old-chain",
		"add rule inet portway old-chain goto refuse",
		"add map inet portway old-map { type ipv4_addr : verdict; }",
		"add element inet portway old-map { 192.0.2.9 : goto old-chain }",
		"add chain inet portway older",
		"add rule inet portway older ip daddr vmap @old-map",
		"add element inet portway listeners4 { 192.0.2.77 . tcp . 7 : goto old-chain }",
		"add element inet portway hairpin4 { 192.0.2.77 . 192.0.2.78 }",
		"add element inet portway refused4 { 192.0.2.77 . udp . 7 . 5-9 }",
		"add element inet portway slots4 { 192.0.2.77 . tcp . 7 . 0xffffff : 192.0.2.78 . 7 }",
		"add rule inet portway services drop",
	} {
		nft(t, ns, strings.Fields(command)...)
	}
	s := newWorld(4).state()
	mustProgram(t, newProgrammer(t, c), s)
	checkKernel(t, c, s)
	rendered, err := Render(s, c)
	if err != nil {
		t.Fatal(err)
	}
	// All rules, too, are as in a table made anew, and, as nft sees them, all elements.
	if diff := cmp.Diff(withoutSlots(rendered), withoutSlots(nft(t, ns, "list", "table", "inet", "portway"))); diff != "" {
		t.Errorf("(-want +kernel):\n%s", diff)
	}
}

// withoutSlots is canonical with the number of slots instead of the slots, which
// may be placed in any order.
func withoutSlots(listing string) string {
	slots := regexp.MustCompile(`(?s)(\tmap slots[46] \{[^}]*?elements = \{\n)(.*?)\n\}`)
	return slots.ReplaceAllStringFunc(canonical(listing), func(block string) string {
		m := slots.FindStringSubmatch(block)
		return fmt.Sprintf("%s%d slots\n}", m[1], 1+strings.Count(m[2], "\n"))
	})
}

// An element that serves a listener but names another is made anew.
func TestAdoptRepairsComments(t *testing.T) {
	const k4, k6 = "192.0.2.1 . udp . 53", "2001:db8::1 . udp . 53"
	for _, test := range []struct{ set, key, value string }{
		{"listeners4", k4, " : goto draw"},
		{"drawn4", k4, " : goto flow-2"},
		{"drawn6", k6, " : goto flow-1"},
		{"refused4", k4 + " . 0x0-0x5ba4ef", ""},
		{"refused6", k6 + " . 0x0-0x5ba4ef", ""},
	} {
		t.Run(test.set, func(t *testing.T) {
			ns, c := inNamespace(t)
			s := stateOf(topologies["udp-refused-share"])
			mustProgram(t, newProgrammer(t, c), s)
			want := canonical(nft(t, ns, "list", "table", "inet", "portway"))
			nft(t, ns, fmt.Sprintf("delete element inet portway %[1]s { %[2]s }; add element inet portway %[1]s { %[2]s comment \"another\"%[3]s }",
				test.set, test.key, test.value))
			if canonical(nft(t, ns, "list", "table", "inet", "portway")) == want {
				t.Fatal("the comment is the same")
			}
			mustProgram(t, newProgrammer(t, c), s)
			if diff := cmp.Diff(want, canonical(nft(t, ns, "list", "table", "inet", "portway"))); diff != "" {
				t.Errorf("(-want +kernel):\n%s", diff)
			}
		})
	}
}

// A table of our name that is not ours at all.
func TestTableInTheWayIsReplaced(t *testing.T) {
	for _, declaration := range []string{
		"add map inet portway listeners4 { type ipv4_addr : verdict; }",
		"add set inet portway slots4 { type ipv4_addr; }",
		"add chain inet portway prerouting { type filter hook prerouting priority 0; }",
	} {
		ns, c := inNamespace(t)
		nft(t, ns, "add", "table", "inet", "portway")
		nft(t, ns, strings.Fields(declaration)...)
		p := newProgrammer(t, c)
		s := newWorld(5).state()
		mustProgram(t, p, s)
		checkKernel(t, c, s)
		if p.Stats().Rebuilt != 1 {
			t.Errorf("%s: %+v, want 1 rebuilt", declaration, p.Stats())
		}
	}
}

// An agent that could not read all it should serve keeps what the kernel holds
// beyond that, with the sets it depends on, until it knows better.
func TestPartialStateKeepsTheUnknown(t *testing.T) {
	_, c := inNamespace(t)
	all := benchState(20)
	mustProgram(t, newProgrammer(t, c), all)

	known := all.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(3): nil, benchKey(4): nil}, nil)
	p := newProgrammer(t, c)
	if n := mustProgram(t, p, known.AsPartial()); n != 0 {
		t.Errorf("%d operations, want none", n)
	}
	checkKernel(t, c, all)
	fewer := known.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(5): nil}, nil)
	mustProgram(t, p, fewer.AsPartial()) // a Frontend that this process named goes
	if got := count(t, c, listeners4); got != 19 {
		t.Errorf("%d listeners in the kernel, want 19", got)
	}
	mustProgram(t, p, fewer)
	checkKernel(t, c, fewer)
	if n := mustProgram(t, p, fewer); n != 0 {
		t.Errorf("%d operations for the same State again, want none", n)
	}
}
