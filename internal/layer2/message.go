package layer2

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// message is what a frame of ARP or of neighbour discovery says.
type message struct {
	// asks for the address; the zero Addr: for none.
	asks netip.Addr
	// probe: the sender has no address yet and may want the one it asks for.
	probe bool
	// claims is an address the sender says is at its MAC; the zero Addr: none.
	claims netip.Addr
	// sender as the message has it, not the frame: switches answer for others.
	sender MAC
	// from is the sender's address; unspecified when it has none yet.
	from netip.Addr
}

// parser reads frames. To be used by one goroutine at a time.
type parser struct {
	eth     layers.Ethernet
	arp     layers.ARP
	ip      layers.IPv6
	icmp    layers.ICMPv6
	ask     layers.ICMPv6NeighborSolicitation
	tell    layers.ICMPv6NeighborAdvertisement
	layers  *gopacket.DecodingLayerParser
	decoded []gopacket.LayerType
}

func newParser() *parser {
	p := &parser{}
	p.layers = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &p.eth, &p.arp, &p.ip, &p.icmp, &p.ask, &p.tell)
	p.layers.IgnoreUnsupported = true
	return p
}

// parse reads a frame. What is invalid, or something else, is not ok.
func (p *parser) parse(data []byte) (m message, ok bool) {
	if err := p.layers.DecodeLayers(data, &p.decoded); err != nil || len(p.decoded) < 2 {
		return message{}, false
	}
	switch p.decoded[len(p.decoded)-1] {
	case layers.LayerTypeARP:
		return p.parseARP()
	case layers.LayerTypeICMPv6NeighborSolicitation:
		return p.parseSolicitation()
	case layers.LayerTypeICMPv6NeighborAdvertisement:
		return p.parseAdvertisement()
	default:
		return message{}, false
	}
}

func (p *parser) parseARP() (m message, ok bool) {
	a := &p.arp
	if a.AddrType != layers.LinkTypeEthernet || a.Protocol != layers.EthernetTypeIPv4 ||
		a.HwAddressSize != 6 || a.ProtAddressSize != 4 {
		return message{}, false
	}
	m.sender = MAC(a.SourceHwAddress)
	m.from = netip.AddrFrom4([4]byte(a.SourceProtAddress))
	target := netip.AddrFrom4([4]byte(a.DstProtAddress))
	if !m.from.IsUnspecified() {
		m.claims = m.from
	}
	switch a.Operation {
	case layers.ARPRequest:
		m.probe = m.from.IsUnspecified()
		if target != m.from { // else it announces itself
			m.asks = target
		}
	case layers.ARPReply:
	default:
		return message{}, false
	}
	return m, individual(m.sender)
}

// valid checks what is common to neighbour discovery (RFC 4861, 7.1).
func (p *parser) valid() bool {
	_ = p.icmp.SetNetworkLayerForChecksum(&p.ip) // fails for neither family
	err, sum := p.icmp.VerifyChecksum()
	return err == nil && sum.Valid && p.ip.HopLimit == 255 && p.icmp.TypeCode.Code() == 0 && len(p.eth.SrcMAC) == 6
}

func (p *parser) parseSolicitation() (m message, ok bool) {
	target, isAddr := netip.AddrFromSlice(p.ask.TargetAddress)
	m.from, ok = netip.AddrFromSlice(p.ip.SrcIP)
	if !ok || !isAddr || !p.valid() || target.IsMulticast() {
		return message{}, false
	}
	m.asks, m.probe, m.sender = target, m.from.IsUnspecified(), MAC(p.eth.SrcMAC)
	if mac, found := linkAddress(p.ask.Options, layers.ICMPv6OptSourceAddress); found {
		if m.probe { // it must not say so (RFC 4861, 7.1.1)
			return message{}, false
		}
		m.sender = mac
	}
	return m, individual(m.sender)
}

func (p *parser) parseAdvertisement() (m message, ok bool) {
	m.claims, ok = netip.AddrFromSlice(p.tell.TargetAddress)
	if !ok || !p.valid() || m.claims.IsMulticast() {
		return message{}, false
	}
	m.sender = MAC(p.eth.SrcMAC)
	if mac, found := linkAddress(p.tell.Options, layers.ICMPv6OptTargetAddress); found {
		m.sender = mac
	}
	return m, individual(m.sender)
}

func linkAddress(options layers.ICMPv6Options, kind layers.ICMPv6Opt) (MAC, bool) {
	for _, o := range options {
		if o.Type == kind && len(o.Data) >= 6 {
			return MAC(o.Data[:6]), true
		}
	}
	return MAC{}, false
}

// individual reports whether it can be the address of one interface.
func individual(m MAC) bool { return m != MAC{} && m[0]&1 == 0 }
