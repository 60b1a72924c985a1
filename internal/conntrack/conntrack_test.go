package conntrack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

func TestMain(m *testing.M) { netns.Main(m) }

const ourBit = 0x1000

// tracked makes an entry as a flow from client to frontend has that was translated
// to endpoint.
func tracked(tb testing.TB, protocol rules.Protocol, client, frontend, endpoint string, mark uint32) {
	tb.Helper()
	src, dst, to := netip.MustParseAddrPort(client), netip.MustParseAddrPort(frontend), netip.MustParseAddrPort(endpoint)
	ip := func(a netip.AddrPort) net.IP { return a.Addr().AsSlice() }
	family := netlink.InetFamily(unix.AF_INET)
	if src.Addr().Is6() {
		family = unix.AF_INET6
	}
	flow := &netlink.ConntrackFlow{
		FamilyType: uint8(family), TimeOut: 100, Mark: mark,
		Forward: netlink.IPTuple{Protocol: uint8(protocol), SrcIP: ip(src), SrcPort: src.Port(), DstIP: ip(dst), DstPort: dst.Port()},
		Reverse: netlink.IPTuple{Protocol: uint8(protocol), SrcIP: ip(to), SrcPort: to.Port(), DstIP: ip(src), DstPort: src.Port()},
	}
	if protocol == rules.TCP {
		flow.ProtoInfo = &netlink.ProtoInfoTCP{State: tcpEstablished}
	}
	if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, flow); err != nil {
		tb.Fatal(err)
	}
}

const tcpEstablished = 3

// all lists the table as "protocol source destination endpoint".
func all(tb testing.TB) []string {
	tb.Helper()
	found := []string{}
	for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
		_, err := Sweep(tb.Context(), Filter{Protocol: protocol}, func(f rules.Flow) bool {
			found = append(found, fmt.Sprint(f.Protocol, " ", f.Src, " ", f.Dst, " ", f.Endpoint))
			return false
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	slices.Sort(found)
	return found
}

func inside(tb testing.TB, f func()) {
	tb.Helper()
	if err := netns.ForTest(tb, "node").Do(func() error { f(); return nil }); err != nil {
		tb.Fatal(err)
	}
}

func TestSweepDeletesTheChosenOnly(t *testing.T) {
	inside(t, func() {
		tracked(t, rules.UDP, "198.51.100.1:1000", "192.0.2.1:53", "10.0.0.1:53", ourBit|1)
		tracked(t, rules.UDP, "198.51.100.1:1001", "192.0.2.1:53", "10.0.0.2:53", ourBit)
		tracked(t, rules.UDP, "198.51.100.1:1002", "192.0.2.1:53", "10.0.0.1:53", 1)
		tracked(t, rules.TCP, "198.51.100.1:1003", "192.0.2.1:53", "10.0.0.1:53", ourBit)
		tracked(t, rules.UDP, "[2001:db8:c::1]:1000", "[2001:db8::1]:53", "[fd00::1]:53", ourBit)
		tracked(t, rules.UDP, "[2001:db8:c::1]:1001", "[2001:db8::1]:53", "[fd00::2]:53", ourBit)
		gone := map[netip.AddrPort]bool{netip.MustParseAddrPort("10.0.0.1:53"): true, netip.MustParseAddrPort("[fd00::1]:53"): true}
		stale := func(f rules.Flow) bool { return gone[f.Endpoint] }

		n, err := Sweep(t.Context(), Filter{Protocol: rules.UDP, Mark: ourBit, MarkMask: ourBit}, stale)
		if n != 2 || err != nil {
			t.Errorf("deleted %d, %v, want 2", n, err)
		}
		want := []string{
			"tcp 198.51.100.1:1003 192.0.2.1:53 10.0.0.1:53",
			"udp 198.51.100.1:1001 192.0.2.1:53 10.0.0.2:53",
			"udp 198.51.100.1:1002 192.0.2.1:53 10.0.0.1:53",
			"udp [2001:db8:c::1]:1001 [2001:db8::1]:53 [fd00::2]:53",
		}
		if diff := cmp.Diff(want, all(t)); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
		if n, err := Sweep(t.Context(), Filter{Protocol: rules.UDP}, stale); n != 1 || err != nil {
			t.Errorf("without a mark: deleted %d, %v, want 1", n, err)
		}
	})
}

// TestEndedEntry: flows end by themselves while the table is read.
func TestEndedEntry(t *testing.T) {
	inside(t, func() {
		tracked(t, rules.UDP, "198.51.100.1:1000", "192.0.2.1:53", "10.0.0.1:53", ourBit)
		entries, err := chosen(t.Context(), unix.AF_INET, Filter{Protocol: rules.UDP}, func(rules.Flow) bool { return true })
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		for _, there := range []bool{true, false} {
			if ended, err := entries[0].end(unix.AF_INET); ended != there || err != nil {
				t.Errorf("there %t: ended %t, %v", there, ended, err)
			}
		}
	})
}

// TestZonesOfOthers: an entry of another zone is its owner's, unless it is marked.
func TestZonesOfOthers(t *testing.T) {
	inside(t, func() {
		tracked(t, rules.UDP, "198.51.100.1:1000", "192.0.2.1:53", "192.0.2.1:53", 0)
		for _, mark := range []string{"0", "4096"} {
			port := "2" + mark // any
			cmd := exec.Command("conntrack", "-I", "-p", "udp", "-s", "198.51.100.1", "-d", "192.0.2.1", "--sport", port, "--dport", "53",
				"--zone", "5", "-m", mark, "-t", "100")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		everything := func(rules.Flow) bool { return true }
		if n, err := Sweep(t.Context(), Filter{Protocol: rules.UDP}, everything); n != 1 || err != nil {
			t.Errorf("without a mark: deleted %d, %v, want 1", n, err)
		}
		if n, err := Sweep(t.Context(), Filter{Protocol: rules.UDP, Mark: ourBit, MarkMask: ourBit}, everything); n != 1 || err != nil {
			t.Errorf("with our mark: deleted %d, %v, want 1", n, err)
		}
	})
}

// TestSweepReadsAsItGoes: an agent has little memory, and tables are large.
func TestSweepReadsAsItGoes(t *testing.T) {
	inside(t, func() {
		const flows = 5000
		for i := range flows {
			client := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(i+1024))
			tracked(t, rules.UDP, client.String(), "192.0.2.7:53", "192.0.2.7:53", 0)
		}
		seen, highest := 0, uint64(0)
		var before, now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := Sweep(t.Context(), Filter{Protocol: rules.UDP}, func(rules.Flow) bool {
			if seen++; seen%1000 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				highest = max(highest, now.HeapAlloc)
			}
			return false
		})
		if err != nil || seen != flows {
			t.Fatalf("saw %d of %d: %v", seen, flows, err)
		}
		if grown := int64(highest) - int64(before.HeapAlloc); grown > 500_000 { // 100 bytes a flow
			t.Errorf("held %d bytes at a time", grown)
		}
	})
}

func TestSweepStopsWithItsContext(t *testing.T) {
	inside(t, func() {
		tracked(t, rules.UDP, "198.51.100.1:1000", "192.0.2.1:53", "10.0.0.1:53", ourBit)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := Sweep(ctx, Filter{Protocol: rules.UDP}, func(rules.Flow) bool { return true }); n != 0 || err == nil {
			t.Errorf("deleted %d, %v", n, err)
		}
	})
}

// BenchmarkSweep is the cost of looking, and finding nothing, in a table of flows
// of others: those that the kernel leaves out, and those that it cannot.
func BenchmarkSweep(b *testing.B) {
	const flows = 100_000
	for name, f := range map[string]Filter{
		"ours":   {Protocol: rules.UDP, Mark: ourBit, MarkMask: ourBit},
		"allUDP": {Protocol: rules.UDP},
		"allTCP": {Protocol: rules.TCP},
	} {
		b.Run(fmt.Sprintf("%s/%d", name, flows), func(b *testing.B) {
			inside(b, func() {
				for i := range flows {
					client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 15), 1}), uint16(i&0x7fff)+1024)
					tracked(b, rules.UDP, client.String(), "192.0.2.7:53", "192.0.2.7:53", 0)
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Sweep(b.Context(), f, func(rules.Flow) bool { return false }); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
