package netfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"iter"
	"math/bits"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// XTables returns the tables of iptables-legacy in use. Only these may be asked for: the
// kernel makes a table the first time somebody does.
func XTables(ipv6 bool) ([]string, error) {
	// Of this thread: in tests it is in a network namespace of its own.
	path := "/proc/thread-self/net/ip_tables_names"
	if ipv6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without
	}
	return strings.Fields(string(text)), err
}

// xlayout is what the two families differ in (struct ipt_entry, ip6t_entry).
type xlayout struct {
	domain, level int
	targetAt      int // where in an entry it says where its target is
	next          int // where the length of the entry is
	counters      int // where the counters are, 16 bytes
}

var (
	xlayout4 = xlayout{unix.AF_INET, unix.IPPROTO_IP, 88, 90, 96}
	xlayout6 = xlayout{unix.AF_INET6, unix.IPPROTO_IPV6, 140, 142, 152}
)

// Options of both families (IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES).
const (
	xGetInfo    = 64
	xGetEntries = 65
	xInfoSize   = 84 // struct ipt_getinfo; the size of all entries comes last
	xHeaderSize = 40 // struct ipt_get_entries in front of the entries
)

// XTable is a table of iptables-legacy in its binary form. The kernel has no generation
// for them.
type XTable struct {
	// Info are the offsets of the built-in chains, the number of entries and their size
	// (struct ipt_getinfo). The kernel knows them; there is no cheaper way to see that
	// rules came or went.
	Info []byte

	layout  xlayout
	entries []byte
}

// XTableInfo returns the table with its Info alone, at a cost that does not depend on its
// size.
func XTableInfo(ipv6 bool, name string) (*XTable, error) { return readXTable(ipv6, name, false) }

// ReadXTable returns the table with all its rules. That is two orders of magnitude cheaper
// than to run a program.
func ReadXTable(ipv6 bool, name string) (*XTable, error) { return readXTable(ipv6, name, true) }

func readXTable(ipv6 bool, name string, all bool) (*XTable, error) {
	t := &XTable{Info: make([]byte, xInfoSize), layout: xlayout4}
	if ipv6 {
		t.layout = xlayout6
	}
	// Any socket of the family will do; a raw one would need one more capability.
	fd, err := unix.Socket(t.layout.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	copy(t.Info, name)
	if err := t.layout.get(fd, xGetInfo, t.Info); err != nil {
		return nil, os.NewSyscallError("getsockopt IPT_SO_GET_INFO", err)
	}
	if !all {
		return t, nil
	}
	size := binary.NativeEndian.Uint32(t.Info[xInfoSize-4:])
	buffer := make([]byte, xHeaderSize+int(size))
	copy(buffer, name)
	binary.NativeEndian.PutUint32(buffer[32:], size)
	if err := t.layout.get(fd, xGetEntries, buffer); err != nil {
		return nil, os.NewSyscallError("getsockopt IPT_SO_GET_ENTRIES", err)
	}
	t.entries = buffer[xHeaderSize:]
	return t, nil
}

// get is getsockopt with a structure for both ways.
func (l xlayout) get(fd, option int, buffer []byte) error {
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(l.level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// XEntry is a rule, or the policy of a built-in chain, or the head or end of another one,
// without its counters: Match is what is in front of them, Action what is behind.
type XEntry struct{ Match, Action []byte }

var errXTable = errors.New("malformed table of iptables")

// Entries yields all of a table that ReadXTable returned.
func (t *XTable) Entries() iter.Seq2[XEntry, error] {
	return func(yield func(XEntry, error) bool) {
		for b := t.entries; len(b) >= t.layout.counters+16; {
			length := int(binary.NativeEndian.Uint16(b[t.layout.next:]))
			if length < t.layout.counters+16 || length > len(b) {
				yield(XEntry{}, errXTable)
				return
			}
			if !yield(XEntry{b[:t.layout.counters], b[t.layout.counters+16 : length]}, nil) {
				return
			}
			b = b[length:]
		}
	}
}

// XChain is a chain and the number of its rules.
type XChain struct {
	Name  string // empty for the built-in ones together, which come first
	Rules int
}

// Chains yields the chains of a table that ReadXTable returned. An entry ends each, which
// is no rule: the policy of a built-in chain, or an implicit return.
func (t *XTable) Chains() iter.Seq2[XChain, error] {
	return func(yield func(XChain, error) bool) {
		const hooksAt = 32 // struct ipt_getinfo, valid_hooks
		policies := bits.OnesCount32(binary.NativeEndian.Uint32(t.Info[hooksAt:]))
		chain := XChain{Rules: -policies}
		for e, err := range t.Entries() {
			if err != nil {
				yield(chain, err)
				return
			}
			name, head := t.head(e)
			if !head {
				chain.Rules++
				continue
			}
			if !yield(chain, nil) {
				return
			}
			chain = XChain{Name: name, Rules: -1}
		}
	}
}

// head tells whether an entry begins a chain (XT_ERROR_TARGET), or ends the table, which
// looks like the begin of a chain "ERROR".
func (t *XTable) head(e XEntry) (name string, ok bool) {
	const nameAt = 2     // of a target, behind its size (struct xt_entry_target)
	const labelAt = 32   // behind that structure (struct xt_error_target)
	const errorSize = 30 // XT_FUNCTION_MAXNAMELEN
	at := int(binary.NativeEndian.Uint16(e.Match[t.layout.targetAt:])) - t.layout.counters - 16
	if at < 0 || at+labelAt+errorSize > len(e.Action) {
		return "", false
	}
	target := e.Action[at:]
	if !bytes.HasPrefix(target[nameAt:], []byte("ERROR\x00")) {
		return "", false
	}
	label, _, _ := bytes.Cut(target[labelAt:labelAt+errorSize], []byte{0})
	return string(label), true
}
