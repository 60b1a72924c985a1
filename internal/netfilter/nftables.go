package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn asks nf_tables. To be used by one goroutine at a time.
type Conn struct{ *netlink.Conn }

// Dial returns nil where the kernel has no nf_tables.
func Dial() (*Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	c := &Conn{conn}
	if _, err := c.Generation(); errors.Is(err, unix.EINVAL) { // an unknown subsystem, see nfnetlink_rcv_msg
		return nil, conn.Close()
	}
	return c, nil
}

// Generation is that of the whole ruleset; every commit of anybody moves it. 0 without
// nf_tables.
func (c *Conn) Generation() (uint32, error) {
	if c == nil {
		return 0, nil
	}
	answers, err := c.Ask(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, 0)
	if err != nil || len(answers) == 0 {
		return 0, errors.Join(errors.New("read the generation of the ruleset"), err)
	}
	return uint32(Number(answers[0].Attrs.Get(unix.NFTA_GEN_ID))), nil
}

// Ask sends a request (enum nf_tables_msg_types) and returns the answers.
func (c *Conn) Ask(kind int, family byte, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]Answer, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	messages, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	out := make([]Answer, 0, len(messages))
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		out = append(out, Answer{m.Data[0], m.Data[4:]})
	}
	return out, nil
}

// Answer is a message: its family and its attributes.
type Answer struct {
	Family byte
	Attrs  Attributes
}

// Attributes are encoded one behind the other. netlink's own decoder copies them.
type Attributes []byte

// All yields the types and values.
func (b Attributes) All() iter.Seq2[uint16, Attributes] {
	return func(yield func(uint16, Attributes) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (netlink.Nested | netlink.NetByteOrder)
			if !yield(kind, b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// Get returns the value of the first attribute of a type, nil for none.
func (b Attributes) Get(want uint16) Attributes {
	for kind, value := range b.All() {
		if kind == want {
			return value
		}
	}
	return nil
}

// Text is the value of an attribute that is a text.
func Text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// Number is the value of an attribute that is a number of 32 or 64 bits, else 0.
func Number(b []byte) uint64 {
	switch len(b) {
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	default:
		return 0
	}
}
