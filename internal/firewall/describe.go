package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/portway-dev/portway/internal/netfilter"
)

// describe says what a rule does, much as nft does, for people who look for it in a
// listing. It leaves out what it has no word for.
func describe(exprs []any) string {
	var words []string
	labels := map[uint32]string{}
	masks := map[uint32][]byte{}
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				say("meta %s set", metaName(e.Key))
			} else {
				labels[place(e.Register)] = metaName(e.Key)
				delete(masks, place(e.Register))
			}
		case *expr.Ct:
			if e.SourceRegister {
				say("ct %s set %s", ctName(e.Key), labels[place(e.Register)])
			} else {
				labels[place(e.Register)] = "ct " + ctName(e.Key)
				delete(masks, place(e.Register))
			}
		case *expr.Payload:
			labels[place(e.DestRegister)] = payloadName(e)
			delete(masks, place(e.DestRegister))
		case *expr.Bitwise:
			label := labels[place(e.SourceRegister)]
			labels[place(e.DestRegister)], masks[place(e.DestRegister)] = label, e.Mask
			if label == "ct mark" && strings.Trim(string(e.Xor), "\x00") != "" { // to be set again
				labels[place(e.DestRegister)] = fmt.Sprintf("ct mark and %s or %s", printed(label, e.Mask), printed(label, e.Xor))
			}
		case *expr.Immediate:
			labels[place(e.Register)] = printed("", e.Data)
		case *expr.Cmp:
			label, mask := labels[place(e.Register)], masks[place(e.Register)]
			switch zero := strings.Trim(string(e.Data), "\x00") == ""; {
			case label == "ct state" && e.Op == expr.CmpOpNeq && zero && mask != nil:
				say("%s %s", label, printed(label, mask))
			case len(mask) == 4 && strings.HasSuffix(label, "mark"):
				say("%s and %s %s%s", label, printed(label, mask), operators[e.Op], printed(label, e.Data))
			default:
				say("%s %s%s", label, operators[e.Op], printed(label, e.Data))
			}
		case *expr.Range:
			label := labels[place(e.Register)]
			say("%s %s%s-%s", label, operators[e.Op], printed(label, e.FromData), printed(label, e.ToData))
		case *expr.Lookup:
			say("%s", describeLookup(e, labels[place(e.SourceRegister)]))
		case *expr.Verdict:
			say("%s", strings.TrimSpace(verdictNames[nftVerdict(e.Kind)]+" "+e.Chain))
		case *expr.Reject:
			say("reject")
		case *expr.Target:
			say("%s", e.Name)
		case opaque:
			if !neutral[e] {
				say("%s", string(e))
			}
		}
	}
	return strings.Join(words, " ")
}

func describeLookup(e *expr.Lookup, label string) string {
	set := "@" + e.SetName
	if strings.HasPrefix(e.SetName, "__") {
		set = "{…}"
	}
	switch {
	case e.IsDestRegSet:
		return label + " vmap " + set
	case e.Invert:
		return label + " != " + set
	default:
		return label + " " + set
	}
}

var operators = map[expr.CmpOp]string{
	expr.CmpOpNeq: "!= ", expr.CmpOpLt: "< ", expr.CmpOpLte: "<= ", expr.CmpOpGt: "> ", expr.CmpOpGte: ">= ",
}

var verdictNames = map[verdict]string{accept: "accept", drop: "drop", jump: "jump", goTo: "goto", leave: "return"}

func metaName(key expr.MetaKey) string {
	names := map[expr.MetaKey]string{
		expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyIIF: "iif", expr.MetaKeyOIF: "oif",
		expr.MetaKeyMARK: "mark", expr.MetaKeyNFPROTO: "meta nfproto", expr.MetaKeyL4PROTO: "meta l4proto",
	}
	if name, ok := names[key]; ok {
		return name
	}
	return "meta"
}

func ctName(key expr.CtKey) string {
	names := map[expr.CtKey]string{
		expr.CtKeySTATE: "state", expr.CtKeySTATUS: "status", expr.CtKeyMARK: "mark", expr.CtKeyDIRECTION: "direction",
	}
	if name, ok := names[key]; ok {
		return name
	}
	return "key"
}

func payloadName(e *expr.Payload) string {
	switch [2]uint32{uint32(e.Base), e.Offset} {
	case [2]uint32{uint32(expr.PayloadBaseNetworkHeader), 12}:
		return "ip saddr"
	case [2]uint32{uint32(expr.PayloadBaseNetworkHeader), 16}:
		return "ip daddr"
	case [2]uint32{uint32(expr.PayloadBaseNetworkHeader), 8}:
		return "ip6 saddr"
	case [2]uint32{uint32(expr.PayloadBaseNetworkHeader), 24}:
		return "ip6 daddr"
	case [2]uint32{uint32(expr.PayloadBaseTransportHeader), 0}:
		return "th sport"
	case [2]uint32{uint32(expr.PayloadBaseTransportHeader), 2}:
		return "th dport"
	default:
		return "payload"
	}
}

// printed formats what a register is compared with.
func printed(label string, data []byte) string {
	switch {
	case strings.HasSuffix(label, "ifname"):
		return `"` + netfilter.Text(data) + `"`
	case strings.HasSuffix(label, "addr"):
		if addr, ok := netip.AddrFromSlice(data); ok {
			return addr.String()
		}
	case strings.HasSuffix(label, "port") && len(data) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(data))
	case label == "meta l4proto" && len(data) == 1:
		return fmt.Sprint(data[0])
	case label == "ct state" && len(data) == 4:
		return stateNames(binary.NativeEndian.Uint32(data))
	}
	if len(data) == 4 {
		return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data))
	}
	return fmt.Sprintf("%#x", data)
}

func stateNames(state uint32) string {
	var names []string
	for _, s := range []struct {
		bit  uint32
		name string
	}{
		{expr.CtStateBitINVALID, "invalid"},
		{expr.CtStateBitESTABLISHED, "established"},
		{expr.CtStateBitRELATED, "related"},
		{expr.CtStateBitNEW, "new"},
		{expr.CtStateBitUNTRACKED, "untracked"},
	} {
		if state&s.bit != 0 {
			names = append(names, s.name)
		}
	}
	return strings.Join(names, ",")
}
