// Package conntrack finds and deletes entries of the kernel's connection tracking
// table by where they lead.
//
// What this package does not do: it decides nothing. It knows tuples, marks and
// protocols, and asks its caller about each entry.
//
// Invariants, each with the test that fails when it breaks:
//
//   - Only what the caller chose is deleted (TestSweepDeletesTheChosenOnly).
//   - Memory follows the entries chosen, not the table: a dump is read as it
//     arrives (TestSweepReadsAsItGoes).
//   - An entry that ends by itself meanwhile is no error (TestEndedEntry).
package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// Filter says which entries are looked at. What the kernel can leave out by itself
// does not cross the socket.
type Filter struct {
	Protocol rules.Protocol
	// Mark that entries carry, where MarkMask has ones; no mask: any, but only of the
	// default zone. Others belong to whoever made the zone, unless they are marked.
	Mark, MarkMask uint32
}

// attributes of enum ctattr_type and what it nests that are not in package nl
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaMarkMask = 21
	// ctaFilter asks for entries whose tuple equals that of the request in what the
	// flags name (Linux 5.8; kernels before it ignore the attribute).
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterProtocol     = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
)

// Sweep deletes those of the filtered entries, of both families, that stale
// reports, and returns how many these were. It asks the network namespace of the
// calling thread. An entry that has ended by itself is not an error.
func Sweep(ctx context.Context, f Filter, stale func(rules.Flow) bool) (deleted int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		entries, err := chosen(ctx, family, f, stale)
		if err != nil {
			return deleted, fmt.Errorf("list tracked connections: %w", err)
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return deleted, ctx.Err()
			}
			ended, err := e.end(family)
			if err != nil {
				return deleted, fmt.Errorf("delete a tracked connection: %w", err)
			}
			if ended {
				deleted++
			}
		}
	}
	return deleted, nil
}

// entry is what names an entry to the kernel: the encoded attributes of its tuple,
// zone and ID. The ID keeps most successors of the same tuple from being taken for
// it, not all: it is made of the entry's place in memory, too.
type entry []byte

// chosen dumps the table and returns the entries that are stale.
func chosen(ctx context.Context, family uint8, f Filter, stale func(rules.Flow) bool) ([]entry, error) {
	var entries []entry
	var failure error
	err := f.request(family).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		if failure = ctx.Err(); failure != nil {
			return false
		}
		var r record
		if failure = r.decode(message); failure != nil {
			return false
		}
		// Kernels that know no filter by protocol sent everything.
		if r.flow.Protocol == f.Protocol && r.mark&f.MarkMask == f.Mark && (r.zone == 0 || f.MarkMask != 0) && stale(r.flow) {
			entries = append(entries, slices.Clone(r.identity))
		}
		return true
	})
	return entries, errors.Join(failure, err)
}

func (f Filter) request(family uint8) *nl.NetlinkRequest {
	req := request(family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	if f.MarkMask != 0 {
		req.AddData(nl.NewRtAttr(nl.CTA_MARK, binary.BigEndian.AppendUint32(nil, f.Mark)))
		req.AddData(nl.NewRtAttr(ctaMarkMask, binary.BigEndian.AppendUint32(nil, f.MarkMask)))
	}
	tuple := nl.NewRtAttr(nested(nl.CTA_TUPLE_ORIG), nil)
	tuple.AddRtAttr(nested(nl.CTA_TUPLE_PROTO), nil).AddRtAttr(nl.CTA_PROTO_NUM, []byte{byte(f.Protocol)})
	flags := nl.NewRtAttr(nested(ctaFilter), nil)
	flags.AddRtAttr(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, filterProtocol))
	req.AddData(tuple)
	req.AddData(flags)
	return req
}

func (e entry) end(family uint8) (bool, error) {
	req := request(family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddRawData(e)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func request(family uint8, operation, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

func nested(attribute int) int { return attribute | unix.NLA_F_NESTED }

// record is an entry as the kernel reports it.
type record struct {
	flow     rules.Flow
	mark     uint32
	zone     uint16
	identity entry
}

// nfgenmsg is the size of the header in front of the attributes.
const nfgenmsg = 4

func (r *record) decode(message []byte) error {
	if len(message) < nfgenmsg {
		return fmt.Errorf("a message of %d bytes", len(message))
	}
	ad, err := netlink.NewAttributeDecoder(message[nfgenmsg:])
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case nl.CTA_TUPLE_ORIG:
			r.identify(ad.TypeFlags(), ad.Type(), ad.Bytes())
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				return decodeTuple(ad, &r.flow.Protocol, &r.flow.Src, &r.flow.Dst)
			})
		case nl.CTA_TUPLE_REPLY:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				var protocol rules.Protocol
				var client netip.AddrPort
				return decodeTuple(ad, &protocol, &r.flow.Endpoint, &client)
			})
		case nl.CTA_ZONE:
			r.identify(ad.TypeFlags(), ad.Type(), ad.Bytes())
			r.zone = ad.Uint16()
		case nl.CTA_ID:
			r.identify(ad.TypeFlags(), ad.Type(), ad.Bytes())
		case nl.CTA_MARK:
			r.mark = ad.Uint32()
		}
	}
	return ad.Err()
}

func (r *record) identify(flags, kind uint16, value []byte) {
	r.identity = append(r.identity, nl.NewRtAttr(int(flags|kind), value).Serialize()...)
}

func decodeTuple(ad *netlink.AttributeDecoder, protocol *rules.Protocol, src, dst *netip.AddrPort) error {
	var addrs [2]netip.Addr
	var ports [2]uint16
	for ad.Next() {
		switch ad.Type() {
		case nl.CTA_TUPLE_IP:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
						addrs[0], _ = netip.AddrFromSlice(ad.Bytes())
					case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
						addrs[1], _ = netip.AddrFromSlice(ad.Bytes())
					}
				}
				return nil
			})
		case nl.CTA_TUPLE_PROTO:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case nl.CTA_PROTO_NUM:
						*protocol = rules.Protocol(ad.Uint8())
					case nl.CTA_PROTO_SRC_PORT:
						ports[0] = ad.Uint16()
					case nl.CTA_PROTO_DST_PORT:
						ports[1] = ad.Uint16()
					}
				}
				return nil
			})
		}
	}
	*src, *dst = netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1])
	return nil
}
