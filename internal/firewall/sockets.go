package firewall

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// listening is where a process may listen.
type listening struct {
	protocol rules.Protocol
	port     uint16
}

// portsInUse finds Frontends at whose address and port a process of the host listens.
// Ours come first: destinations are translated before the kernel looks for a socket.
func (h *Host) portsInUse(t Traffic) []Finding {
	sockets := map[listening][]netip.Addr{}
	for _, source := range []struct {
		file     string
		protocol rules.Protocol
		state    string // as the kernel prints it: TCP_LISTEN; TCP_CLOSE is UDP without a peer
	}{{"tcp", rules.TCP, "0A"}, {"tcp6", rules.TCP, "0A"}, {"udp", rules.UDP, "07"}, {"udp6", rules.UDP, "07"}} {
		file, err := h.Proc.Open("thread-self/net/" + source.file)
		if err != nil {
			continue // a kernel without IPv6
		}
		for _, at := range readSockets(file, source.state, source.protocol == rules.TCP) {
			key := listening{source.protocol, at.Port()}
			sockets[key] = append(sockets[key], at.Addr())
		}
		_ = file.Close() // only read
	}
	var out []Finding
	for key, f := range t.State.All() {
		addrs := sockets[listening{key.Protocol, key.Port}]
		i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return takes(a, key.Addr) && (a == key.Addr || t.ofHost(key.Addr)) })
		if i < 0 || reaches(f, netip.AddrPortFrom(key.Addr, key.Port)) {
			continue
		}
		out = append(out, Finding{Reason: ReasonPortInUse, Owner: listenerOf(f), Message: fmt.Sprintf(
			"%s %s is listener %s of Gateway %s, and a process of this host listens at %s: what comes to that address goes to the Gateway's endpoints, no longer to the process; give one of the two another port",
			key.Protocol, netip.AddrPortFrom(key.Addr, key.Port), f.Owner.Listener, f.Owner.Gateway,
			netip.AddrPortFrom(addrs[i], key.Port))})
	}
	return out
}

// takes reports whether a socket at an address gets what comes to another. Whether one
// at :: leaves IPv4 alone (IPV6_V6ONLY) the kernel does not show here.
func takes(socket, addr netip.Addr) bool {
	return socket == addr || socket.IsUnspecified() && (socket.Is6() || addr.Is4())
}

// reaches reports whether the socket is meant: an endpoint on the node's own network.
func reaches(f *rules.Frontend, at netip.AddrPort) bool {
	for i := range f.Backends {
		for _, e := range f.Backends[i].Endpoints {
			if e.Addr == at {
				return true
			}
		}
	}
	return false
}

// readSockets reads /proc/net/tcp and the like. The kernel lists sockets that listen
// for TCP in front of all connections, which need not be read, then.
func readSockets(r io.Reader, state string, first bool) []netip.AddrPort {
	const local, status = 1, 3
	var out []netip.AddrPort
	lines := bufio.NewScanner(r)
	lines.Scan() // the header
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) <= status {
			continue
		}
		if f[status] != state {
			if first {
				break
			}
			continue
		}
		if at, ok := parseSocket(f[local]); ok {
			out = append(out, at)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// parseSocket reads "0100007F:1F90": 32-bit words as they lie in memory, and a port.
func parseSocket(text string) (netip.AddrPort, bool) {
	left, right, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(left)
	port, err2 := strconv.ParseUint(right, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	var memory []byte
	for word := range slices.Chunk(raw, 4) {
		memory = binary.NativeEndian.AppendUint32(memory, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(memory)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}
