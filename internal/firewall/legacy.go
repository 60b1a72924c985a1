package firewall

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacyTables returns the tables of iptables-legacy in use. Only these may be asked
// for: the kernel makes a table the first time somebody does.
func legacyTables(v6 bool) ([]string, error) {
	// Of this thread: in tests it is in a network namespace of its own.
	path := "/proc/thread-self/net/ip_tables_names"
	if v6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without
	}
	return strings.Fields(string(text)), err
}

// legacyLayout is what the two families differ in (struct ipt_entry, ip6t_entry).
type legacyLayout struct {
	domain, level int
	counters      int // where in an entry they are, 16 bytes
	next          int // where the length of the entry is
}

var (
	legacy4 = legacyLayout{unix.AF_INET, unix.IPPROTO_IP, 96, 90}
	legacy6 = legacyLayout{unix.AF_INET6, unix.IPPROTO_IPV6, 152, 142}
)

// Options of both families (IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES).
const (
	getInfo    = 64
	getEntries = 65
	infoSize   = 84 // struct ipt_getinfo; the size of all entries comes last
	headerSize = 40 // struct ipt_get_entries in front of the entries
)

// legacyStamp differs when rules of the tables of iptables-legacy do that matter here.
// The kernel has no generation for them; its binary tables, less the counters, are two
// orders of magnitude cheaper than to run a program.
func legacyStamp(v6 bool) (uint64, error) {
	names, err := legacyTables(v6)
	if err != nil || !slices.ContainsFunc(names, relevantLegacy) {
		return 0, err
	}
	layout := legacy4
	if v6 {
		layout = legacy6
	}
	// Any socket of the family will do; a raw one would need one more capability.
	fd, err := unix.Socket(layout.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var stamp maphash.Hash
	stamp.SetSeed(stampSeed)
	for _, name := range names {
		if !relevantLegacy(name) {
			continue
		}
		if err := layout.hash(&stamp, fd, name); err != nil {
			return 0, err
		}
	}
	return stamp.Sum64(), nil
}

func relevantLegacy(table string) bool { return table == "filter" || table == "mangle" }

func (l legacyLayout) hash(stamp *maphash.Hash, fd int, name string) error {
	info := make([]byte, infoSize)
	copy(info, name)
	if err := l.get(fd, getInfo, info); err != nil {
		return os.NewSyscallError("getsockopt IPT_SO_GET_INFO", err)
	}
	size := binary.NativeEndian.Uint32(info[infoSize-4:])
	buffer := make([]byte, headerSize+int(size))
	copy(buffer, name)
	binary.NativeEndian.PutUint32(buffer[32:], size)
	if err := l.get(fd, getEntries, buffer); err != nil {
		return os.NewSyscallError("getsockopt IPT_SO_GET_ENTRIES", err)
	}
	_, _ = stamp.WriteString(name) // never fails, here and below
	for b := buffer[headerSize:]; len(b) >= l.counters+16; {
		length := int(binary.NativeEndian.Uint16(b[l.next:]))
		if length < l.counters+16 || length > len(b) {
			return errors.New("malformed table of iptables")
		}
		_, _ = stamp.Write(b[:l.counters])
		_, _ = stamp.Write(b[l.counters+16 : length])
		b = b[length:]
	}
	return nil
}

// get is getsockopt with a structure for both ways.
func (l legacyLayout) get(fd, option int, buffer []byte) error {
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(l.level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
