package nftables

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/portway-dev/portway/rules"
)

// op adds or deletes one element.
type op struct {
	set     setID
	del     bool
	to      chainID            // listeners, drawn: the chain it leads to
	n       uint32             // slots: the slot; refused: how many numbers are dropped
	key     *rules.FrontendKey // endpoints: the endpoint; exclusive, local, hairpin: the address only
	slot    rules.Slot         // slots: the endpoint
	comment string             // listeners, drawn, refused
	raw     *rawElement        // a foreign element to delete instead
}

// String formats the operation for the log of a failed batch.
func (o op) String() string {
	var b strings.Builder
	if o.del {
		b.WriteString("delete ")
	} else {
		b.WriteString("add ")
	}
	b.WriteString(o.set.String())
	switch {
	case o.raw != nil:
		fmt.Fprintf(&b, " %x", o.raw.key)
		return b.String()
	case o.key.Port == 0:
		fmt.Fprintf(&b, " %s", o.key.Addr)
		return b.String()
	}
	fmt.Fprintf(&b, " %s", *o.key)
	switch o.set.kind() {
	case kindSlots:
		fmt.Fprintf(&b, " slot %d", o.n)
		if !o.del {
			fmt.Fprintf(&b, " = %s", o.slot.Endpoint.Addr)
		}
	case kindRefused:
		fmt.Fprintf(&b, " %d draws", o.n)
	case kindListeners, kindDrawn:
		if !o.del {
			fmt.Fprintf(&b, " = %s", o.to)
		}
	default: // is all told
	}
	return b.String()
}

// element encodes the operation; buf takes the key and the value.
func (o op) element(buf []byte) (nftables.SetElement, []byte) {
	if o.raw != nil {
		return nftables.SetElement{Key: o.raw.key, KeyEnd: o.raw.keyEnd}, buf
	}
	start := len(buf)
	e := nftables.SetElement{}
	if !o.del {
		e.Comment = o.comment
	}
	buf = appendAddr(buf, o.key.Addr)
	switch o.set.kind() {
	case kindLocal, kindExclusive:
	case kindHairpin:
		buf = appendAddr(buf, o.key.Addr)
	case kindEndpoints:
		buf = appendService(buf, o.key)
	case kindListeners, kindDrawn:
		buf = appendService(buf, o.key)
		if !o.del {
			e.VerdictData = verdicts[o.to]
		}
	case kindRefused:
		buf = appendService(buf, o.key)
		key := len(buf) + 4
		buf = append(binary.BigEndian.AppendUint32(buf, 0), buf[start:]...)
		e.KeyEnd = binary.BigEndian.AppendUint32(buf, o.n-1)[key:]
		e.Key = buf[start:key]
		return e, buf[:key+len(e.KeyEnd)]
	case kindSlots:
		buf = binary.NativeEndian.AppendUint32(appendService(buf, o.key), o.n)
		if o.del {
			break
		}
		value := len(buf)
		buf = appendAddr(buf, o.slot.Endpoint.Addr.Addr())
		buf = appendPort(buf, o.slot.Endpoint.Addr.Port())
		e.Key, e.Val, e.Comment = buf[start:value], buf[value:], slotComment(o.slot)
		return e, buf
	}
	e.Key = buf[start:]
	return e, buf
}

func appendService(buf []byte, key *rules.FrontendKey) []byte {
	return appendPort(append(buf, byte(key.Protocol), 0, 0, 0), key.Port)
}

func appendPort(buf []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(buf, port), 0, 0)
}

// verdicts holds "goto NAME" for each chain, shared by all elements.
var verdicts = makeVerdicts()

func makeVerdicts() []*expr.Verdict {
	out := make([]*expr.Verdict, len(chainNames))
	for id, name := range chainNames {
		out[id] = &expr.Verdict{Kind: expr.VerdictGoto, Chain: name}
	}
	return out
}

func appendAddr(buf []byte, addr endpointAddr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(buf, a[:]...)
	}
	a := addr.As16()
	return append(buf, a[:]...)
}

// Sizes on the wire. All lengths are padded to four bytes.
const (
	attrHeader    = 4
	messageHeader = 16 + 4 // nlmsghdr and nfgenmsg
	// maxMessage keeps the list of elements, one attribute, below the 65 535 bytes
	// its 16-bit length can say. google/nftables v0.3.0 does not check: what is
	// beyond is lost without an error.
	maxMessage = 60_000
)

// size is the encoded length of the operation's element in bytes.
func (o op) size() int {
	if o.raw != nil {
		return 4*attrHeader + padded(len(o.raw.key)) + attrHeader*2 + padded(len(o.raw.keyEnd))
	}
	const nested = 2 * attrHeader // an attribute in an attribute
	addr := 4
	if o.set.ipv6() {
		addr = 16
	}
	size := attrHeader
	text := o.comment
	switch o.set.kind() {
	case kindLocal, kindExclusive:
		size += nested + addr
	case kindHairpin:
		size += nested + 2*addr
	case kindEndpoints:
		size += nested + addr + 8
	case kindSlots:
		size += nested + addr + 12
		if !o.del {
			size += nested + addr + 4
			text = "" // counted with its parts, see below
			size += attrHeader + padded(2+min(len(o.slot.Backend.Ref)+1+len(o.slot.Endpoint.Name), maxComment)+1)
		}
	case kindRefused:
		size += 2 * (nested + addr + 12)
	case kindListeners, kindDrawn:
		size += nested + addr + 8
		if !o.del {
			size += nested + nested + 4 + attrHeader + padded(len(o.to.String())+1)
		}
	}
	if !o.del && text != "" {
		size += attrHeader + padded(2+len(text)+1)
	}
	return size
}

func padded(n int) int { return (n + 3) &^ 3 }

// cost is what something takes of a batch.
type cost struct{ bytes, messages int }

func (c cost) plus(d cost) cost { return cost{c.bytes + d.bytes, c.messages + d.messages} }

func (c cost) within(limit cost) bool {
	return c.bytes <= limit.bytes && c.messages <= limit.messages
}

const (
	maxElement = 512                                // no element is larger
	setHeader  = messageHeader + 4*attrHeader + 160 // names of the table and the set
)

// elementsCost is the most that elements of so many bytes take. Each set has one
// message to delete from it and one to add to it that may be part full.
func elementsCost(bytes int) cost {
	messages := 2*int(setCount) + bytes/(maxMessage-maxElement)
	return cost{bytes + messages*setHeader, messages}
}

// chunk is elements on their way into a message.
type chunk struct {
	elements []nftables.SetElement
	bytes    int
}

func (c *chunk) reset() {
	clear(c.elements)
	c.elements, c.bytes = c.elements[:0], 0
}

// encoder turns operations into messages of a Conn's current batch. Elements of
// one set go into as few messages as possible. Of one key the deletion stays in
// front of the addition. Its memory is used again for the next batch.
type encoder struct {
	conn *nftables.Conn
	sets *[setCount]*nftables.Set
	buf  []byte // keys and values, which the library copies
	dels [setCount]chunk
	adds [setCount]chunk
}

func (e *encoder) encode(conn *nftables.Conn, ops []op) error {
	e.conn = conn
	for set := range setCount { // what a failure may have left
		e.dels[set].reset()
		e.adds[set].reset()
	}
	e.buf = e.buf[:0]
	for i := range ops {
		o := &ops[i]
		c := &e.adds[o.set]
		if o.del {
			c = &e.dels[o.set]
		}
		size := o.size()
		if c.bytes+size > maxMessage {
			if err := e.emit(o.set, o.del); err != nil {
				return err
			}
		}
		if cap(e.buf)-len(e.buf) < maxElement {
			// The full one lives on in its elements.
			e.buf = make([]byte, 0, min(maxElement*len(ops), maxMessage))
		}
		var element nftables.SetElement
		element, e.buf = o.element(e.buf)
		c.elements = append(c.elements, element)
		c.bytes += size
	}
	for set := range setCount {
		if err := e.emit(set, false); err != nil {
			return err
		}
	}
	return nil
}

// emit makes messages of the deletions of a set and, unless only they are asked
// for, of its additions.
func (e *encoder) emit(set setID, deletionsOnly bool) error {
	if c := &e.dels[set]; len(c.elements) > 0 {
		if err := e.conn.SetDeleteElements(e.sets[set], c.elements); err != nil {
			return fmt.Errorf("encode elements to delete from %s: %w", set, err)
		}
		c.reset()
	}
	if c := &e.adds[set]; !deletionsOnly && len(c.elements) > 0 {
		if err := e.conn.SetAddElements(e.sets[set], c.elements); err != nil {
			return fmt.Errorf("encode elements to add to %s: %w", set, err)
		}
		c.reset()
	}
	return nil
}

// maxLogged bounds the operations named in an error.
const maxLogged = 8

// logged formats the operations of a failed batch, the first and the last ones.
func logged(ops []op) string {
	texts := make([]string, 0, maxLogged+1)
	for i, o := range ops {
		switch {
		case len(ops) <= maxLogged || i < maxLogged/2 || i >= len(ops)-maxLogged/2:
			texts = append(texts, o.String())
		case i == maxLogged/2:
			texts = append(texts, fmt.Sprintf("… %d more …", len(ops)-maxLogged))
		}
	}
	return strings.Join(texts, "; ")
}
