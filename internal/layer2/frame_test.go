package layer2

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	mac1, mac2 = MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	addr4      = netip.MustParseAddr("192.0.2.7")
	addr6      = netip.MustParseAddr("2001:db8::1:2:3")
	local      = netip.MustParseAddr("fe80::1")
	asker4     = netip.MustParseAddr("192.0.2.200")
	asker6     = netip.MustParseAddr("fe80::200")
)

var sameMessage = cmp.Options{
	cmp.AllowUnexported(message{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// TestFrames compares frames with what the RFCs draw, byte by byte, and reads them back.
func TestFrames(t *testing.T) {
	const toAll, toAllNodes, toGroup = "ffffffffffff 020000000001 0806 0001 0800 06 04 ",
		"333300000001 020000000001 86dd 60000000 0020 3a ff ", "3333ff020003 020000000001 86dd 60000000 0018 3a ff "
	const allNodesText, ours6 = "ff020000000000000000000000000001 ", "20010db8000000000000000100020003 "
	for _, tt := range []struct {
		name  string
		frame frame
		want  string
		means message
	}{
		{
			"ARP probe", probeFrame(mac1, addr4),
			toAll + "0001 020000000001 00000000 000000000000 c0000207",
			message{asks: addr4, probe: true, sender: mac1, from: netip.IPv4Unspecified()},
		},
		{
			"ARP announcement as a request", announcementFrame(mac1, local, addr4, false),
			toAll + "0001 020000000001 c0000207 000000000000 c0000207",
			message{claims: addr4, sender: mac1, from: addr4},
		},
		{
			"ARP announcement as a reply", announcementFrame(mac1, local, addr4, true),
			toAll + "0002 020000000001 c0000207 020000000001 c0000207",
			message{claims: addr4, sender: mac1, from: addr4},
		},
		{
			"ARP reply", answerFrame(mac1, local, message{asks: addr4, sender: mac2, from: asker4}),
			"020000000002 020000000001 0806 0001 0800 06 04 0002 020000000001 c0000207 020000000002 c00002c8",
			message{claims: addr4, sender: mac1, from: addr4},
		},
		{
			"DAD probe", probeFrame(mac1, addr6),
			toGroup + "00000000000000000000000000000000 ff0200000000000000000001ff020003 8700 4ce4 00000000 " + ours6,
			message{asks: addr6, probe: true, sender: mac1, from: netip.IPv6Unspecified()},
		},
		{
			"unsolicited advertisement", announcementFrame(mac1, local, addr6, false),
			toAllNodes + "fe800000000000000000000000000001 " + allNodesText + "8800 285e 20000000 " + ours6 + "0201 020000000001",
			message{claims: addr6, sender: mac1},
		},
		{
			"solicited advertisement", answerFrame(mac1, local, message{asks: addr6, sender: mac2, from: asker6}),
			"020000000002 020000000001 86dd 60000000 0020 3a ff fe800000000000000000000000000001 fe800000000000000000000000000200 " +
				"8800 e6e0 60000000 " + ours6 + "0201 020000000001",
			message{claims: addr6, sender: mac1},
		},
		{
			// RFC 4861, 7.2.4: to all nodes, and not as an answer.
			"advertisement to who has no address", answerFrame(mac1, local, message{asks: addr6, probe: true, sender: mac2, from: netip.IPv6Unspecified()}),
			toAllNodes + "fe800000000000000000000000000001 " + allNodesText + "8800 285e 20000000 " + ours6 + "0201 020000000001",
			message{claims: addr6, sender: mac1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.ReplaceAll(tt.want, " ", "")
			want += strings.Repeat("00", max(0, 60-len(want)/2)) // the least Ethernet sends
			if diff := cmp.Diff(want, hex.EncodeToString(tt.frame.data)); diff != "" {
				t.Errorf("frame (-want +got):\n%s", diff)
			}
			if got := MAC(tt.frame.data[:6]); got != tt.frame.to {
				t.Errorf("sent to %s, addressed to %s", tt.frame.to, got)
			}
			got, ok := newParser().parse(tt.frame.data)
			if !ok {
				t.Fatal("not understood")
			}
			if diff := cmp.Diff(tt.means, got, sameMessage); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParserRefuses(t *testing.T) {
	arpOf := func(at int, value byte) []byte { return changed(probeFrame(mac1, addr4), at, value) }
	ndpOf := func(at int, value byte) []byte {
		return changed(announcementFrame(mac1, local, addr6, false), at, value)
	}
	for name, data := range map[string][]byte{
		"empty":                 {},
		"other protocol":        arpOf(13, 0x07),
		"other hardware":        arpOf(15, 6),
		"other operation":       arpOf(21, 3),
		"group as sender":       arpOf(22, 1),
		"ARP cut short":         probeFrame(mac1, addr4).data[:40],
		"passed on by a router": ndpOf(21, 254),
		"wrong checksum":        ndpOf(57, 0),
		"other code":            ndpOf(55, 1),
		"other next header":     ndpOf(20, 17),
		"option of length 0":    ndpOf(79, 0),
		"advertisement cut":     announcementFrame(mac1, local, addr6, false).data[:70],
	} {
		if m, ok := newParser().parse(data); ok {
			t.Errorf("%s: understood as %+v", name, m)
		}
	}
}

func changed(f frame, at int, value byte) []byte {
	f.data[at] = value
	return f.data
}

func FuzzParse(f *testing.F) {
	for _, a := range []netip.Addr{addr4, addr6} {
		f.Add(probeFrame(mac1, a).data)
		f.Add(announcementFrame(mac1, local, a, true).data)
	}
	p := newParser()
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := p.parse(data)
		if ok && (!individual(m.sender) || m.asks.IsValid() && m.asks == m.claims) {
			t.Errorf("%x: understood as %+v", data, m)
		}
	})
}
