package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// query reads from nf_tables what google/nftables v0.3.0 does not: verdict maps,
// handles and the generation. A connection of its own, because the other one
// filters and counts its answers.
type query struct {
	*netlink.Conn
	table  string
	buffer []byte // of dump
}

func openQuery(c Config) (*query, error) {
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: c.NetNS})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	return &query{Conn: raw, table: c.Table}, nil
}

// ask sends one request about our table and returns the answers.
func (q *query) ask(kind int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	m, err := message(kind, flags, attrs...)
	if err != nil {
		return nil, err
	}
	return q.Execute(m)
}

func (q *query) request(kind int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) error {
	m, err := message(kind, flags, attrs...)
	if err != nil {
		return err
	}
	_, err = q.Send(m)
	return err
}

func message(kind int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

func zeroTerminated(s string) []byte { return append([]byte(s), 0) }

// generation returns the number of the last commit in the namespace, whoever
// made it.
func (q *query) generation() (uint32, error) {
	answers, err := q.ask(unix.NFT_MSG_GETGEN, 0)
	if err != nil {
		return 0, fmt.Errorf("read the generation of the ruleset: %w", err)
	}
	for _, m := range answers {
		for kind, value := range attributes(payload(m)) {
			if kind == unix.NFTA_GEN_ID && len(value) == 4 {
				return binary.BigEndian.Uint32(value), nil
			}
		}
	}
	return 0, errors.New("read the generation of the ruleset: no answer")
}

// handle returns the number the kernel gave our table when it was made; ok is
// false when there is no such table. A table made anew has another one.
func (q *query) handle() (handle uint64, ok bool, err error) {
	const tableHandle = 4 // NFTA_TABLE_HANDLE, not in x/sys/unix
	answers, err := q.ask(unix.NFT_MSG_GETTABLE, 0,
		netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: zeroTerminated(q.table)})
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look for table inet %s: %w", q.table, err)
	}
	for _, m := range answers {
		for kind, value := range attributes(payload(m)) {
			if kind == tableHandle && len(value) == 8 {
				return binary.BigEndian.Uint64(value), true, nil
			}
		}
	}
	return 0, false, fmt.Errorf("look for table inet %s: no answer", q.table)
}

// tables lists the tables of family inet.
func (q *query) tables() ([]string, error) {
	answers, err := q.ask(unix.NFT_MSG_GETTABLE, netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("list the tables of family inet: %w", err)
	}
	var names []string
	for _, m := range answers {
		names = append(names, text(attribute(payload(m), unix.NFTA_TABLE_NAME)))
	}
	return names, nil
}

// names lists the chains or the sets of our table, in the order the kernel has
// them in.
func (q *query) names(kind int, tableAttr, nameAttr uint16) ([]string, error) {
	answers, err := q.ask(kind, netlink.Dump,
		netlink.Attribute{Type: tableAttr, Data: zeroTerminated(q.table)})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range answers {
		var table, name string
		for kind, value := range attributes(payload(m)) {
			switch kind {
			case tableAttr:
				table = text(value)
			case nameAttr:
				name = text(value)
			}
		}
		if table == q.table && name != "" { // chains come from all tables (Linux < 6.3)
			names = append(names, name)
		}
	}
	return names, nil
}

func (q *query) chains() ([]string, error) {
	names, err := q.names(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
	if err != nil {
		return nil, fmt.Errorf("list the chains of table inet %s: %w", q.table, err)
	}
	return names, nil
}

func (q *query) sets() ([]string, error) {
	names, err := q.names(unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME)
	if err != nil {
		return nil, fmt.Errorf("list the sets of table inet %s: %w", q.table, err)
	}
	return names, nil
}

// rules returns the fingerprints of the rules of chains of our table, or of all of
// them if none is named. For a few the kernel is much quicker one by one.
func (q *query) rules(chains ...string) (map[string][]fingerprint, error) {
	out := make(map[string][]fingerprint)
	each := func(payload []byte) bool {
		if text(attribute(payload, unix.NFTA_RULE_TABLE)) == q.table {
			chain := text(attribute(payload, unix.NFTA_RULE_CHAIN))
			out[chain] = append(out[chain], fingerprintOf(attribute(payload, unix.NFTA_RULE_USERDATA)))
		}
		return true
	}
	table := netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: zeroTerminated(q.table)}
	if len(chains) == 0 {
		return out, q.dumpRules(each, table)
	}
	for _, chain := range chains {
		one := netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: zeroTerminated(chain)}
		if err := q.dumpRules(each, table, one); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (q *query) dumpRules(each func(payload []byte) bool, attrs ...netlink.Attribute) error {
	if err := q.dump(unix.NFT_MSG_GETRULE, each, attrs...); err != nil {
		return fmt.Errorf("list the rules of table inet %s: %w", q.table, err)
	}
	return nil
}

// rawElement is an element as the kernel lists it.
type rawElement struct {
	key, keyEnd, value []byte
	chain              string // where a verdict goes to
	comment            string
}

// elements yields the elements of a set; they are valid until the next one. A
// commit elsewhere in the namespace makes the kernel flag the dump as interrupted;
// as nobody else writes to our table that is of no account.
//
// While the kernel resizes a set, which it goes on with after a commit, a dump of several
// datagrams may be torn: each walks the set from its beginning and skips as many elements
// as were listed, but of another order. It then misses as many as it lists twice.
func (q *query) elements(set string) iter.Seq2[rawElement, error] {
	return func(yield func(rawElement, error) bool) {
		wanted := true
		err := q.dump(unix.NFT_MSG_GETSETELEM, func(payload []byte) bool {
			for _, element := range attributes(attribute(payload, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
				if wanted = yield(parseElement(element), nil); !wanted {
					return false
				}
			}
			return true
		},
			netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: zeroTerminated(q.table)},
			netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: zeroTerminated(set)})
		if err != nil && wanted {
			yield(rawElement{}, fmt.Errorf("list the elements of %s: %w", set, err))
		}
	}
}

// dumpBuffer is as large as the kernel makes the datagrams of a dump, provided
// that it has seen us receive with a buffer of that size (netlink_recvmsg,
// max_recvmsg_len). For each datagram it walks the set from its beginning, so
// their size decides how long a large set takes; netlink's own Receive has 4 KiB.
const dumpBuffer = 32 << 10

// dump sends a request and hands over the payload of each answer, in memory that
// is used again for the next.
func (q *query) dump(kind int, each func(payload []byte) bool, attrs ...netlink.Attribute) error {
	if q.buffer == nil {
		q.buffer = make([]byte, dumpBuffer)
		if err := q.enlarge(); err != nil {
			return err
		}
	}
	if err := q.request(kind, netlink.Dump, attrs...); err != nil {
		return err
	}
	for {
		n, err := q.receive()
		if err != nil {
			return err
		}
		done, err := datagram(q.buffer[:n], each)
		if errors.Is(err, errEnough) {
			return errors.Join(err, q.Close()) // with answers unread it is of no more use
		}
		if done || err != nil {
			return err
		}
	}
}

// datagram hands over the messages of one datagram; done after the last of a dump.
func datagram(b []byte, each func(payload []byte) bool) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return false, errors.New("malformed netlink message")
		}
		body := b[unix.SizeofNlMsghdr:length]
		kind := binary.NativeEndian.Uint16(b[4:])
		if len(body) >= 4 && (kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR) {
			if errno := int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				return true, unix.Errno(-errno)
			}
			return true, nil
		}
		if len(body) >= 4 && !each(body[4:]) {
			return false, errEnough
		}
		b = b[min(padded(length), len(b)):]
	}
	return false, nil
}

// errEnough ends a dump early.
var errEnough = errors.New("dump not read to its end")

// enlarge receives a small answer into a large buffer.
func (q *query) enlarge() error {
	if err := q.request(unix.NFT_MSG_GETGEN, 0); err != nil {
		return err
	}
	_, err := q.receive()
	return err
}

func (q *query) receive() (int, error) {
	socket, err := q.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var receiveErr error
	err = socket.Read(func(fd uintptr) bool {
		n, _, receiveErr = unix.Recvfrom(int(fd), q.buffer, 0)
		return receiveErr != unix.EAGAIN && receiveErr != unix.EINTR
	})
	return n, errors.Join(err, os.NewSyscallError("recvfrom", receiveErr))
}

func parseElement(b []byte) rawElement {
	var e rawElement
	for kind, value := range attributes(b) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = attribute(value, unix.NFTA_DATA_VALUE)
		case keyEndAttr:
			e.keyEnd = attribute(value, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			e.value = attribute(value, unix.NFTA_DATA_VALUE)
			if v := attribute(value, unix.NFTA_DATA_VERDICT); v != nil {
				e.chain = text(attribute(v, unix.NFTA_VERDICT_CHAIN))
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment = text(userDataField(value, 0))
		}
	}
	return e
}

// userDataField returns a field of nft's user data: one byte type, one byte
// length, value (libnftnl udata.h); type 0 is the comment.
func userDataField(b []byte, kind byte) []byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		value := b[2 : 2+int(b[1])]
		if b[0] == kind {
			return value
		}
		b = b[2+len(value):]
	}
	return nil
}

// payload is the part of a message behind struct nfgenmsg.
func payload(m netlink.Message) []byte {
	if len(m.Data) < 4 {
		return nil
	}
	return m.Data[4:]
}

// attributes yields the attributes in b, type and value. netlink's own decoder
// copies each value, which 100 000 elements do not need.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHeader {
			length := int(binary.NativeEndian.Uint16(b))
			if length < attrHeader || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (netlink.Nested | netlink.NetByteOrder)
			if !yield(kind, b[attrHeader:length]) {
				return
			}
			b = b[min(padded(length), len(b)):]
		}
	}
}

// attribute returns the value of the first attribute of a type, nil for none.
func attribute(b []byte, want uint16) []byte {
	for kind, value := range attributes(b) {
		if kind == want {
			return value
		}
	}
	return nil
}

func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
