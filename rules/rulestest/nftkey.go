package rulestest

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nftKey is what a rule looks up.
type nftKey struct {
	types  []string // of the fields
	fields []string // all but a drawn one
	draws  uint32   // the last field is a number below that; 0: it is not
	hashed string   // what that is a hash of; empty where it is random
	other  bool     // a field is of the other family: nothing is looked up
}

// readKey reads "ip daddr . meta l4proto" and what more of fields there is.
func readKey(w *words, p Packet) (k nftKey, err error) {
	for len(k.types) == 0 || k.draws == 0 && w.take(".") {
		if err := k.readField(w, p); err != nil {
			return k, err
		}
	}
	if k.other {
		k.hashed = ""
	}
	return k, nil
}

func (k *nftKey) readField(w *words, p Packet) (err error) {
	switch {
	case w.take("ip"):
		return k.readPacket(w, "ipv4_addr", p, "saddr", "daddr")
	case w.take("ip6"):
		return k.readPacket(w, "ipv6_addr", p, "saddr", "daddr")
	case w.take("th"):
		return k.readPacket(w, "inet_service", p, "sport", "dport")
	case w.take("meta", "l4proto"):
		k.add("inet_proto", p.Protocol.String())
		return nil
	case w.take("numgen", "random", "mod"):
		k.draws, err = w.number()
	case w.take("jhash"):
		err = k.readHash(w, p)
	default:
		return errSyntax
	}
	if k.types = append(k.types, drawnType); err == nil && k.draws == 0 {
		err = errSyntax
	}
	return err
}

func (k *nftKey) add(kind, field string) {
	k.types, k.fields = append(k.types, kind), append(k.fields, field)
}

// readPacket reads a field of the packet's source or destination.
func (k *nftKey) readPacket(w *words, kind string, p Packet, source, destination string) error {
	var at netip.AddrPort
	switch {
	case w.take(source):
		at = p.Src
	case w.take(destination):
		at = p.Dst
	default:
		return errSyntax
	}
	if kind == "inet_service" {
		k.add(kind, strconv.Itoa(int(at.Port())))
		return nil
	}
	k.add(kind, at.Addr().String())
	k.other = k.other || at.Addr().Is4() != (kind == "ipv4_addr")
	return nil
}

// readHash reads "ip saddr . th sport mod 4 seed 0x1".
func (k *nftKey) readHash(w *words, p Packet) error {
	before := *w
	of, err := readKey(w, p)
	if err != nil {
		return err
	}
	k.hashed = strings.Join(before[:len(before)-len(*w)], " ")
	k.other = k.other || of.other
	if p.Hashed != "" || of.draws > 0 {
		return errors.New("a hash of what is hashed or drawn")
	}
	if !w.take("mod") {
		return errSyntax
	}
	if k.draws, err = w.number(); err != nil {
		return err
	}
	if !w.take("seed") {
		return errSyntax
	}
	_, err = w.number()
	return err
}

// find looks a key up in what is called "@name", a map to a kind of values or a set, "".
func (t *Nftables) find(k nftKey, name, kind string) ([]choice, error) {
	s := t.sets[strings.TrimPrefix(name, "@")]
	switch {
	case s == nil:
		return nil, fmt.Errorf("set %q: there is none", name)
	case !slices.Equal(s.key, k.types):
		return nil, fmt.Errorf("set %s: keys are of %q, not of %q", name, s.key, k.types)
	case s.kind() != kind:
		return nil, fmt.Errorf("set %s: values are of %q", name, s.value)
	case k.other:
		return []choice{{probability: big.NewRat(1, 1)}}, nil
	}
	return s.find(strings.Join(k.fields, " "), k.draws), nil
}
