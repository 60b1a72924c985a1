package layer2

import (
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String formats it with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

var (
	broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// allNodes is ff02::1 and where Ethernet sends it (RFC 2464, 7).
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = MAC{0x33, 0x33, 0, 0, 0, 1}
)

// solicitedNode is the group that is asked for an IPv6 address (RFC 4291, 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is where Ethernet sends an IPv6 multicast group (RFC 2464, 7).
func groupMAC(group netip.Addr) MAC {
	b := group.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// frame is ready to be sent.
type frame struct {
	to   MAC
	data []byte
}

var serialize = gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}

func build(to MAC, parts ...gopacket.SerializableLayer) frame {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, serialize, parts...); err != nil {
		panic("layer2: " + err.Error()) // sizes are fixed: only a mistake in this file
	}
	return frame{to: to, data: buffer.Bytes()}
}

func ethernet(from, to MAC, kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: kind}
}

func arp(operation uint16, to MAC, from MAC, sender netip.Addr, targetMAC MAC, target netip.Addr) frame {
	return build(to, ethernet(from, to, layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: operation,
		SourceHwAddress: from[:], SourceProtAddress: sender.AsSlice(),
		DstHwAddress: targetMAC[:], DstProtAddress: target.AsSlice(),
	})
}

// neighbour builds a message of IPv6 neighbour discovery. Its hop limit shows that no
// router has passed it on (RFC 4861, 7.1).
func neighbour(from, to MAC, source, destination netip.Addr, kind uint8, body gopacket.SerializableLayer) frame {
	ip := &layers.IPv6{
		Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255,
		SrcIP: source.AsSlice(), DstIP: destination.AsSlice(),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip) // fails for neither family
	return build(to, ethernet(from, to, layers.EthernetTypeIPv6), ip, icmp, body)
}

// advertisement says that an address is at our MAC: "override" as we own it, not as
// its proxy, and never "router" (RFC 4861, 4.4).
func advertisement(from, to MAC, source, destination, address netip.Addr, solicited bool) frame {
	const isSolicited, override = 0x40, 0x20
	flags := uint8(override)
	if solicited {
		flags |= isSolicited
	}
	return neighbour(from, to, source, destination, layers.ICMPv6TypeNeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{
		Flags: flags, TargetAddress: address.AsSlice(),
		Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: from[:]}},
	})
}

// probeFrame asks who has an address, without saying that we want it: so nobody learns
// from it (RFC 5227, 2.1.1; RFC 4862, 5.4.2).
func probeFrame(from MAC, address netip.Addr) frame {
	if address.Is4() {
		return arp(layers.ARPRequest, broadcast, from, netip.IPv4Unspecified(), MAC{}, address)
	}
	group := solicitedNode(address)
	return neighbour(from, groupMAC(group), netip.IPv6Unspecified(), group, layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: address.AsSlice()})
}

// announcementFrame tells everybody who has an address; linkLocal is our own. ARP has
// two forms: hosts update what they know from requests (RFC 5227, 3), and some devices
// only from replies. Linux takes a reply for gratuitous when it is addressed to
// its sender (arp_is_garp, net/ipv4/arp.c).
func announcementFrame(from MAC, linkLocal, address netip.Addr, reply bool) frame {
	switch {
	case address.Is6():
		return advertisement(from, allNodesMAC, linkLocal, allNodes, address, false)
	case reply:
		return arp(layers.ARPReply, broadcast, from, address, from, address)
	default:
		return arp(layers.ARPRequest, broadcast, from, address, MAC{}, address)
	}
}

// answerFrame answers a message that asks for an address. Who has no address yet is
// answered by multicast (RFC 4861, 7.2.4).
func answerFrame(from MAC, linkLocal netip.Addr, m message) frame {
	switch {
	case m.asks.Is4():
		return arp(layers.ARPReply, m.sender, from, m.asks, m.sender, m.from)
	case m.probe:
		return advertisement(from, allNodesMAC, linkLocal, allNodes, m.asks, false)
	default:
		return advertisement(from, m.sender, linkLocal, m.from, m.asks, true)
	}
}
