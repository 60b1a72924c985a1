package nftables

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// libraryElement is what google/nftables is to be given for an operation.
func libraryElement(o op) nftables.SetElement {
	if o.raw != nil {
		return nftables.SetElement{Key: o.raw.key, KeyEnd: o.raw.keyEnd}
	}
	e := nftables.SetElement{Key: o.key.Addr.AsSlice()}
	service := func() []byte {
		port := binary.BigEndian.AppendUint16(nil, o.key.Port)
		return slices.Concat(o.key.Addr.AsSlice(), []byte{byte(o.key.Protocol), 0, 0, 0}, port, []byte{0, 0})
	}
	switch o.set.kind() {
	case kindLocal, kindExclusive:
	case kindHairpin:
		e.Key = slices.Concat(e.Key, e.Key)
	case kindEndpoints:
		e.Key = service()
	case kindListeners, kindDrawn:
		e.Key = service()
		if !o.del {
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: o.to.String()}
		}
	case kindRefused:
		e.Key = append(service(), 0, 0, 0, 0)
		e.KeyEnd = binary.BigEndian.AppendUint32(service(), o.n-1)
	case kindSlots, kindWideSlots:
		e.Key = binary.NativeEndian.AppendUint32(service(), o.n)
		if !o.del {
			to := o.slot.Endpoint.Addr
			e.Val = append(binary.BigEndian.AppendUint16(to.Addr().AsSlice(), to.Port()), 0, 0)
			e.Comment = slotComment(o.slot)
		}
	}
	if !o.del && e.Comment == "" {
		e.Comment = o.comment
	}
	return e
}

// sentMessage is what matters of a message in a batch: not its numbers.
type sentMessage struct {
	Type  netlink.HeaderType
	Flags netlink.HeaderFlags
	Data  []byte
}

// byLibrary encodes a batch of one message of the operations, which are of one kind and set.
func byLibrary(t *testing.T, l *layout, ops []op) []sentMessage {
	t.Helper()
	var sent []sentMessage
	conn, err := nftables.New(nftables.WithTestDial(func(messages []netlink.Message) ([]netlink.Message, error) {
		if len(messages) == 0 { // it waits for an answer
			return []netlink.Message{{Header: netlink.Header{Type: netlink.Error}, Data: make([]byte, 4)}}, nil
		}
		for _, m := range messages {
			sent = append(sent, sentMessage{m.Header.Type, m.Header.Flags, m.Data})
		}
		return nil, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	elements := make([]nftables.SetElement, 0, len(ops))
	for _, o := range ops {
		elements = append(elements, libraryElement(o))
	}
	add := conn.SetAddElements
	if ops[0].del {
		add = conn.SetDeleteElements
	}
	if err := add(l.sets[ops[0].set], elements); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return sent
}

// messagesOf takes a batch apart, as the kernel would.
func messagesOf(t *testing.T, b batch) []sentMessage {
	t.Helper()
	var out []sentMessage
	want := b.first
	for rest := b.bytes; len(rest) > 0; {
		if len(rest) < unix.SizeofNlMsghdr {
			t.Fatalf("%d bytes left over", len(rest))
		}
		length := int(binary.NativeEndian.Uint32(rest))
		if length < messageHeader || length > len(rest) || length%4 != 0 {
			t.Fatalf("message of %d bytes, %d are left", length, len(rest))
		}
		m := sentMessage{
			netlink.HeaderType(binary.NativeEndian.Uint16(rest[4:])), netlink.HeaderFlags(binary.NativeEndian.Uint16(rest[6:])),
			rest[unix.SizeofNlMsghdr:length],
		}
		if number := binary.NativeEndian.Uint32(rest[8:]); m.Flags&netlink.Acknowledge != 0 {
			if number != want {
				t.Errorf("message %d has the number %d", want, number)
			}
			want++
		}
		out = append(out, m)
		rest = rest[length:]
	}
	if want != b.next {
		t.Errorf("the numbers are %d … %d, want %d behind the last", b.first, want, b.next)
	}
	return out
}

// encodableOps are operations of every kind, on every set, with the comments that differ.
func encodableOps(r *rand.Rand, n int) []op {
	long := strings.Repeat("p", 63)
	refs := []string{"ns/web", "n/" + long, long + "/" + long, `q"uote\d/é`, "a\tb/\x7f", "ns/\xff"}
	names := []string{"", "web-7c5ddbdf54-x2x9w", long, long + long, "pöd", `"`}
	addrs := []string{"192.0.2.1", "2001:db8::1"}
	ops := make([]op, 0, n)
	for range n {
		set := setID(r.IntN(int(setCount)))
		addr := netip.MustParseAddr(addrs[set&1])
		k := &rules.FrontendKey{Addr: addr, Protocol: []rules.Protocol{rules.TCP, rules.UDP}[r.IntN(2)], Port: uint16(r.Uint32())}
		o := op{set: set, del: r.IntN(3) == 0, key: k, n: 1 + r.Uint32N(rules.MaxSlots)}
		switch set.kind() {
		case kindListeners, kindDrawn:
			o.to, o.comment = chainRefuse+chainID(r.IntN(len(chainNames)-1)), shorten(refs[r.IntN(len(refs))]+names[r.IntN(len(names))])
		case kindRefused:
			o.comment = shorten(refs[r.IntN(len(refs))])
		case kindSlots, kindWideSlots:
			o.slot = rules.Slot{
				Backend:  &rules.Backend{Ref: refs[r.IntN(len(refs))]},
				Endpoint: &rules.Endpoint{Addr: netip.AddrPortFrom(addr, uint16(r.Uint32())), Name: names[r.IntN(len(names))]},
			}
		default: // have neither
		}
		if o.del && r.IntN(4) == 0 {
			o.raw = &rawElement{key: []byte{1, 2, 3, 4}, keyEnd: [][]byte{nil, {1, 2, 3, 5}}[r.IntN(2)]}
		}
		ops = append(ops, o)
	}
	return ops
}

// What is sent is byte by byte what google/nftables would send for the same elements: every
// operation once, deletions from a set before additions to it, and no message larger than
// its list's length can say.
func TestEncodesAsTheLibrary(t *testing.T) {
	l := newLayout(DefaultConfig(), everything)
	e := encoder{sets: &l.sets}
	for _, n := range []int{1, 2, 3, 100, 20_000, 5} { // the last one in memory of a larger batch
		ops := encodableOps(rand.New(rand.NewPCG(1, uint64(n))), n)
		bytes := 0
		for _, o := range ops {
			bytes += o.size()
		}
		e.encode(ops, bytes)
		if limit := elementsCost(bytes); len(e.bytes) > limit.bytes+2*messageHeader || int(e.next-e.first) > limit.messages {
			t.Errorf("%d operations: %d bytes, %d messages; at most %v", n, len(e.bytes), e.next-e.first, limit)
		}
		got := messagesOf(t, e.batch)
		var want []sentMessage
		at := 1 // of the next message, behind the one that begins the batch
		for set := range setCount {
			for _, del := range []bool{true, false} {
				left := slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o.set != set || o.del != del })
				for ; len(left) > 0; at++ {
					if at >= len(got) {
						t.Fatalf("%d operations: %d on %s are missing", n, len(left), set)
					}
					if list := len(attribute(got[at].Data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)); list > maxMessage {
						t.Errorf("%s: a list of %d bytes", set, list)
					}
					here := min(len(left), elementsIn(got[at]))
					batch := byLibrary(t, l, left[:here])
					left = left[here:]
					if len(want) == 0 {
						want = append(want, batch[0])
					}
					want = append(want, batch[1])
					if len(want) == len(got)-1 {
						want = append(want, batch[2])
					}
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%d operations (-library +ours):\n%.2000s", n, diff)
		}
	}
}

// elementsIn is how many elements a message has, at least 1.
func elementsIn(m sentMessage) int {
	n := 0
	for range attributes(attribute(m.Data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		n++
	}
	return max(n, 1)
}

// Batches are cut by size, so no element may be larger than it says.
func TestSizeIsNotTooSmall(t *testing.T) {
	l := newLayout(DefaultConfig(), everything)
	e := encoder{sets: &l.sets}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		k := rules.FrontendKey{Addr: netip.MustParseAddr(addr), Protocol: rules.TCP, Port: 80}
		name := strings.Repeat("p", 60)
		slot := rules.Slot{
			Backend:  &rules.Backend{Ref: "ns/" + name},
			Endpoint: &rules.Endpoint{Addr: netip.AddrPortFrom(k.Addr, 80), Name: name + name},
		}
		for set := range setCount {
			if set.ipv6() != k.Addr.Is6() {
				continue
			}
			for _, del := range []bool{false, true} {
				o := op{set: set, del: del, key: &k, n: 7, to: slotChain(rules.Random, 16384), slot: slot, comment: name + name}
				if set.kind() >= kindExclusive {
					o.comment = "" // they have none
				}
				size := func(ops ...op) int {
					e.encode(ops, 0)
					return len(e.bytes) - 2*messageHeader
				}
				if actual := size(o, o) - size(o); actual > o.size() || actual < o.size()-16 || o.size() > maxElement {
					t.Errorf("%s: encoded in %d bytes, said %d", o, actual, o.size())
				}
				if header := size(o) - o.size(); header > setHeader {
					t.Errorf("%s: header of %d bytes, at most %d", o, header, setHeader)
				}
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	l := newLayout(DefaultConfig(), everything)
	e := encoder{sets: &l.sets}
	var ops []op
	for i := range window {
		k := benchKey(i)
		p := newPlan(k, nil, compile(k, benchFrontend(i, 0, benchEndpoints), nil))
		ops = append(append(ops, p.slots...), p.switches...)
	}
	for _, n := range []int{1, len(ops)} {
		b.Run(fmt.Sprintf("operations=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.encode(ops[:n], 0)
			}
		})
	}
}
