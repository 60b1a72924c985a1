package nftables

import (
	"fmt"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// op adds or deletes one element.
type op struct {
	set     setID
	del     bool
	to      chainID            // listeners, drawn: the chain it leads to
	n       uint32             // slots: the slot; refused: how many numbers are dropped; members: the memberID
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
	case kindSlots, kindWideSlots:
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

// Sizes on the wire. All lengths are padded to four bytes.
const (
	attrHeader    = 4
	messageHeader = 16 + 4 // nlmsghdr and nfgenmsg
	// maxMessage keeps the list of elements, one attribute, below the 65 535 bytes
	// its 16-bit length can say.
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
	case kindSlots, kindWideSlots:
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
