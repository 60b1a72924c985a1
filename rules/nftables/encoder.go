package nftables

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// batch is a transaction of nf_tables as it is sent.
type batch struct {
	bytes []byte
	// Messages to be acknowledged have the sequence numbers first … next-1.
	first, next uint32
}

// maxKept bounds the memory of a batch that is kept for the next one.
const maxKept = 64 << 10

// encoder turns operations into a batch, byte by byte what google/nftables makes of them
// (TestEncodesAsTheLibrary), without an object for each element and a copy for each level of
// attributes. Elements of one set go into as few messages as possible. Of one key the
// deletion stays in front of the addition. Its memory is used again for the next batch.
type encoder struct {
	batch
	sets *[setCount]*nftables.Set
	// Where the open message and its list of elements begin, and how many are in it.
	message, list, elements int
}

// encode makes the batch of operations that take at most so many bytes.
func (e *encoder) encode(ops []op, bytes int) {
	if room := elementsCost(bytes).bytes + 2*messageHeader; cap(e.bytes) < room {
		e.bytes = make([]byte, 0, room)
	}
	e.bytes, e.first = e.bytes[:0], e.next
	var present [setCount][2]bool
	for i := range ops {
		present[ops[i].set][adding(&ops[i])] = true
	}
	e.envelope(unix.NFNL_MSG_BATCH_BEGIN)
	for set := range setCount {
		for kind, some := range present[set] {
			if some {
				e.encodeSet(set, kind, ops)
			}
		}
	}
	e.envelope(unix.NFNL_MSG_BATCH_END)
}

// adding is 0 for a deletion and 1 for an addition, the order they are sent in.
func adding(o *op) int {
	if o.del {
		return 0
	}
	return 1
}

// encodeSet encodes the deletions from a set or the additions to it.
func (e *encoder) encodeSet(set setID, kind int, ops []op) {
	e.elements = 0
	for i := range ops {
		if o := &ops[i]; o.set == set && adding(o) == kind {
			if e.elements > 0 && len(e.bytes)-e.list > maxMessage-maxElement {
				e.closeMessage()
			}
			if e.elements == 0 {
				e.openMessage(set, kind)
			}
			e.elements++
			e.element(o)
		}
	}
	e.closeMessage()
}

// shrink gives back the memory of a large batch.
func (e *encoder) shrink() {
	if cap(e.bytes) > maxKept {
		e.bytes = nil
	}
}

// header appends nlmsghdr, whose length is written later, and nfgenmsg.
func (e *encoder) header(kind, flags uint16, sequence uint32, family byte, resource uint16) {
	e.bytes = append(e.bytes, 0, 0, 0, 0)
	e.bytes = binary.NativeEndian.AppendUint16(e.bytes, kind)
	e.bytes = binary.NativeEndian.AppendUint16(e.bytes, unix.NLM_F_REQUEST|flags)
	e.bytes = binary.NativeEndian.AppendUint32(e.bytes, sequence)
	e.bytes = append(e.bytes, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	e.bytes = binary.BigEndian.AppendUint16(e.bytes, resource)
}

// envelope appends a message that begins or ends the batch; nobody acknowledges it.
func (e *encoder) envelope(kind uint16) {
	at := len(e.bytes)
	e.header(kind, 0, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint32(e.bytes[at:], messageHeader)
}

func (e *encoder) openMessage(id setID, kind int) {
	e.message = len(e.bytes)
	message := [...]uint16{unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWSETELEM}[kind]
	set := e.sets[id]
	e.header(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_ACK|unix.NLM_F_CREATE, e.next, byte(set.Table.Family), 0)
	e.next++
	e.text(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	e.number(unix.NFTA_SET_ELEM_LIST_SET_ID, set.ID)
	e.text(unix.NFTA_SET_ELEM_LIST_TABLE, set.Table.Name)
	e.list = e.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS | unix.NLA_F_NESTED)
}

func (e *encoder) closeMessage() {
	e.close(e.list)
	binary.NativeEndian.PutUint32(e.bytes[e.message:], uint32(len(e.bytes)-e.message))
	e.elements = 0
}

// open begins an attribute, to be closed behind its value.
func (e *encoder) open(kind uint16) (at int) {
	at = len(e.bytes)
	e.bytes = append(e.bytes, 0, 0)
	e.bytes = binary.NativeEndian.AppendUint16(e.bytes, kind)
	return at
}

func (e *encoder) close(at int) {
	length := len(e.bytes) - at
	binary.NativeEndian.PutUint16(e.bytes[at:], uint16(length))
	e.bytes = append(e.bytes, "\x00\x00\x00"[:padded(length)-length]...)
}

func (e *encoder) number(kind uint16, n uint32) {
	at := e.open(kind)
	e.bytes = binary.BigEndian.AppendUint32(e.bytes, n)
	e.close(at)
}

func (e *encoder) text(kind uint16, text string) {
	at := e.open(kind)
	e.bytes = append(append(e.bytes, text...), 0)
	e.close(at)
}

// value opens an attribute and the value in it, both of which end closes.
func (e *encoder) value(kind uint16) (at int) {
	at = e.open(kind | unix.NLA_F_NESTED)
	e.open(unix.NFTA_DATA_VALUE)
	return at
}

func (e *encoder) end(at int) {
	e.close(at + attrHeader)
	e.close(at)
}

// element appends the element of an operation.
func (e *encoder) element(o *op) {
	at := e.open(uint16(e.elements) | unix.NLA_F_NESTED)
	switch {
	case o.raw != nil:
		e.raw(o.raw)
	case o.del:
		e.key(o)
	default:
		e.key(o)
		e.data(o)
		e.comment(o)
	}
	e.close(at)
}

// keyEndAttr is NFTA_SET_ELEM_KEY_END, which x/sys/unix lacks.
const keyEndAttr = 10

func (e *encoder) raw(r *rawElement) {
	at := e.value(unix.NFTA_SET_ELEM_KEY)
	e.bytes = append(e.bytes, r.key...)
	e.end(at)
	if len(r.keyEnd) > 0 {
		at = e.value(keyEndAttr)
		e.bytes = append(e.bytes, r.keyEnd...)
		e.end(at)
	}
}

func (e *encoder) key(o *op) {
	at := e.value(unix.NFTA_SET_ELEM_KEY)
	e.bytes = appendAddr(e.bytes, o.key.Addr)
	switch o.set.kind() {
	case kindLocal, kindExclusive:
	case kindHairpin:
		e.bytes = appendAddr(e.bytes, o.key.Addr)
	case kindSlots, kindWideSlots:
		e.bytes = binary.NativeEndian.AppendUint32(appendService(e.bytes, o.key), o.n)
	case kindRefused:
		e.bytes = binary.BigEndian.AppendUint32(appendService(e.bytes, o.key), 0)
		e.end(at)
		at = e.value(keyEndAttr)
		e.bytes = appendService(appendAddr(e.bytes, o.key.Addr), o.key)
		e.bytes = binary.BigEndian.AppendUint32(e.bytes, o.n-1)
	case kindEndpoints, kindListeners, kindDrawn:
		e.bytes = appendService(e.bytes, o.key)
	}
	e.end(at)
}

// data appends what a map has for the key: a slot's endpoint, or "goto CHAIN".
func (e *encoder) data(o *op) {
	switch o.set.kind() {
	case kindSlots, kindWideSlots:
		at := e.value(unix.NFTA_SET_ELEM_DATA)
		e.bytes = appendAddr(e.bytes, o.slot.Endpoint.Addr.Addr())
		e.bytes = appendPort(e.bytes, o.slot.Endpoint.Addr.Port())
		e.end(at)
	case kindListeners, kindDrawn:
		leadsTo := expr.VerdictGoto // negative
		at := e.open(unix.NFTA_SET_ELEM_DATA | unix.NLA_F_NESTED)
		verdict := e.open(unix.NFTA_DATA_VERDICT | unix.NLA_F_NESTED)
		e.number(unix.NFTA_VERDICT_CODE, uint32(leadsTo))
		e.text(unix.NFTA_VERDICT_CHAIN, o.to.String())
		e.close(verdict)
		e.close(at)
	default: // a set has keys only
	}
}

// comment appends the comment as nft's user data: type 0, length, text and a zero.
func (e *encoder) comment(o *op) {
	at := e.open(unix.NFTA_SET_ELEM_USERDATA)
	text := len(e.bytes) + 2
	e.bytes = append(e.bytes, 0, 0)
	switch o.set.kind() {
	case kindSlots, kindWideSlots:
		e.bytes = appendSlotComment(e.bytes, o.slot)
	default:
		e.bytes = append(e.bytes, o.comment...)
	}
	if len(e.bytes) == text {
		e.bytes = e.bytes[:at]
		return
	}
	e.bytes = append(e.bytes, 0)
	e.bytes[text-1] = byte(len(e.bytes) - text)
	e.close(at)
}

func appendService(buf []byte, key *rules.FrontendKey) []byte {
	return appendPort(append(buf, byte(key.Protocol), 0, 0, 0), key.Port)
}

func appendPort(buf []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(buf, port), 0, 0)
}

func appendAddr(buf []byte, addr endpointAddr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(buf, a[:]...)
	}
	a := addr.As16()
	return append(buf, a[:]...)
}
