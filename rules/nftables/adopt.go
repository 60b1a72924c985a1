package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// kernel is what the kernel is proven to hold.
type kernel struct {
	programs  map[rules.FrontendKey]*program
	exclusive map[netip.Addr]struct{}
	members   *members
	// What a former version or a stranger left in our table.
	foreign []op
	chains  []string
	sets    []string
}

func newKernel() *kernel {
	return &kernel{
		programs: make(map[rules.FrontendKey]*program), exclusive: make(map[netip.Addr]struct{}), members: newMembers(),
	}
}

// clean reports whether there is nothing to remove.
func (k *kernel) clean() bool {
	return len(k.members.unneeded)+len(k.foreign)+len(k.chains)+len(k.sets) == 0
}

// adopt takes over whatever the kernel holds. Without a table it makes one. With
// one it replaces the rules that are not as they should be, chain by chain, and
// reads the elements back, so that the ordinary diff then touches what differs and
// nothing else: no flow is refused and no counter lost by a restart.
func (p *Programmer) adopt(ctx context.Context) error {
	handle, exists, err := p.query.handle()
	if err != nil {
		return err
	}
	if !exists || handle != p.handle {
		p.unprove()
	}
	var present map[string][]fingerprint
	if exists {
		if present, err = p.query.rules(); err != nil {
			return err
		}
	}
	err = p.ensure(ctx, present)
	if exists && rejected(err) {
		p.stats.Rebuilt++
		p.unprove()
		exists, err = false, p.rebuild(ctx)
	}
	if err != nil {
		return fmt.Errorf("put the rules of table inet %s in place: %w", p.config.Table, err)
	}
	k := newKernel()
	if exists {
		p.stats.ReadBacks++
		if err := p.readBack(k); err != nil {
			return err
		}
	}
	if err := p.remember(); err != nil {
		return err
	}
	p.miss(k)
	p.kernel, p.synced, p.lost = k, true, false
	return nil
}

// ensure makes the static part of the table, but for what is present.
func (p *Programmer) ensure(ctx context.Context, present map[string][]fingerprint) error {
	steps, err := p.layout.steps(present)
	if err != nil {
		return err
	}
	return p.flushSteps(ctx, steps)
}

// rebuild makes the table anew where somebody made one of its name that ours cannot
// grow out of, say with a map of another type. The one case in which there are no
// rules for a moment; the alternative is to fail for ever.
func (p *Programmer) rebuild(ctx context.Context) error {
	if err := p.connect(); err != nil {
		return err
	}
	p.conn.DelTable(p.layout.table)
	return p.ensure(ctx, nil)
}

// remember notes by what a change by strangers is recognised. The kernel never has
// generation 0, so verify looks at the rules once more: nobody was kept from changing
// them while they were put in place and the elements read.
func (p *Programmer) remember() error {
	handle, _, err := p.query.handle()
	p.handle, p.generation = handle, 0
	return err
}

// miss notes the Frontends that the kernel held as far as we knew, and does not hold:
// others deleted them, or a batch of ours was committed whose answers were lost.
func (p *Programmer) miss(now *kernel) {
	for key, was := range p.kernel.programs {
		if was.serves() && !now.programs[key].serves() {
			p.missed[key] = struct{}{}
		}
	}
}

// maxReads bounds how often a table is read that is listed torn, see query.elements: the
// kernel resizes a set a few times behind a commit, in milliseconds.
const maxReads = 100

// untorn reads until that is not torn.
func untorn(read func() (torn bool, err error)) error {
	for range maxReads {
		if torn, err := read(); err != nil || !torn {
			return err
		}
	}
	return fmt.Errorf("%d listings in a row were torn, as the kernel resizes a set", maxReads)
}

func (p *Programmer) readBack(k *kernel) error {
	return untorn(func() (bool, error) {
		*k = *newKernel()
		return p.readOnce(k)
	})
}

func (p *Programmer) readOnce(k *kernel) (torn bool, err error) {
	chains, err := p.query.chains()
	if err != nil {
		return false, err
	}
	for _, name := range chains {
		if !slices.ContainsFunc(p.layout.chains, func(c chain) bool { return c.Name == name }) {
			k.chains = append(k.chains, name)
		}
	}
	sets, err := p.query.sets()
	if err != nil {
		return false, err
	}
	for _, name := range sets {
		if !slices.Contains(setNames[:], name) {
			k.sets = append(k.sets, name)
		}
	}
	r := reader{kernel: k, slots: make(map[string]rules.Slot)}
	for id := range setCount {
		for element, err := range p.query.elements(id.String()) {
			if err != nil {
				return false, err
			}
			if !r.read(id, element) {
				foreign := rawElement{key: bytes.Clone(element.key), keyEnd: bytes.Clone(element.keyEnd)}
				k.foreign = append(k.foreign, op{set: id, del: true, raw: &foreign})
			}
		}
		if r.torn {
			return true, nil
		}
	}
	return false, nil
}

// reader builds the programs from elements.
type reader struct {
	*kernel
	slots map[string]rules.Slot // by value and comment
	torn  bool                  // an element was there twice
}

// read takes one element into the model; false if it is none of ours.
func (r *reader) read(id setID, e rawElement) bool {
	addr, key := cutAddr(e.key, id.ipv6())
	switch id.kind() {
	case kindExclusive:
		if !addr.IsValid() || len(key) != 0 {
			return false
		}
		_, listed := r.exclusive[addr]
		r.torn = r.torn || listed
		r.exclusive[addr] = struct{}{}
		return true
	case kindLocal:
		if !addr.IsValid() || len(key) != 0 {
			return false
		}
		r.member(id, rules.FrontendKey{Addr: addr})
		return true
	case kindHairpin:
		if !addr.IsValid() || !bytes.Equal(e.key, append(slices.Clone(key), key...)) {
			return false
		}
		r.member(id, rules.FrontendKey{Addr: addr})
		return true
	default: // has a service
	}
	if !addr.IsValid() || len(key) < 8 {
		return false
	}
	service := rules.FrontendKey{Addr: addr, Protocol: rules.Protocol(key[0]), Port: binary.BigEndian.Uint16(key[4:])}
	key = key[8:]
	switch id.kind() {
	case kindEndpoints:
		r.member(id, service)
		return true
	case kindListeners:
		p := r.program(service)
		r.torn = r.torn || p.serves()
		p.listener, p.comment = foundChain(e.chain), e.comment
		return true
	case kindDrawn:
		p := r.program(service)
		r.torn = r.torn || p.drawn != chainNone
		p.drawn = foundChain(e.chain)
		p.checkComment(e)
		return true
	case kindRefused:
		return r.readRefused(service, key, e)
	default:
		w := narrow
		if id.kind() == kindWideSlots {
			w = wide
		}
		return r.readSlot(service, w, key, e)
	}
}

func (r *reader) member(id setID, key rules.FrontendKey) {
	r.torn = r.members.hold(memberOf(id, key)) || r.torn
}

func (r *reader) program(key rules.FrontendKey) *program {
	p := r.programs[key]
	if p == nil {
		p = &program{adopted: true}
		r.programs[key] = p
	}
	return p
}

// checkComment makes the comments differ from whatever is wanted when those of
// one listener's elements are not the same.
func (p *program) checkComment(e rawElement) {
	if e.comment != p.comment {
		p.comment = "\x00"
	}
}

// former are names that any build may give to chains that pick a slot.
var former = regexp.MustCompile(`^(wide-)?(random|flow|client)-\d+$`)

func foundChain(name string) chainID {
	if id, ok := chainIDs[name]; ok && name != "" {
		return id
	}
	if former.MatchString(name) {
		return chainFormer
	}
	return chainForeign
}

func (r *reader) readRefused(service rules.FrontendKey, from []byte, e rawElement) bool {
	if len(from) != 4 || len(e.keyEnd) != len(e.key) || binary.BigEndian.Uint32(from) != 0 {
		return false
	}
	p := r.program(service)
	if p.refused != 0 {
		return false
	}
	p.refused = binary.BigEndian.Uint32(e.keyEnd[len(e.keyEnd)-4:]) + 1
	p.checkComment(e)
	return true
}

func (r *reader) readSlot(service rules.FrontendKey, w width, number []byte, e rawElement) bool {
	addr, port := cutAddr(e.value, service.Addr.Is6())
	if len(number) != 4 || !addr.IsValid() || len(port) != 4 {
		return false
	}
	n := int(binary.NativeEndian.Uint32(number))
	if n >= rules.MaxSlots {
		return false
	}
	slots := &r.program(service).slots[w]
	if n >= len(*slots) {
		*slots = append(*slots, make([]rules.Slot, n+1-len(*slots))...)
	}
	r.torn = r.torn || !(*slots)[n].Refused()
	(*slots)[n] = r.slot(netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), e)
	return true
}

// slot makes the slot an element stands for; its comment tells which Service and
// which pod. Equal slots are one object.
func (r *reader) slot(addr netip.AddrPort, e rawElement) rules.Slot {
	id := string(e.value) + e.comment
	if slot, ok := r.slots[id]; ok {
		return slot
	}
	ref, name, _ := strings.Cut(e.comment, " ")
	slot := rules.Slot{
		Backend:  &rules.Backend{Ref: ref},
		Endpoint: &rules.Endpoint{Addr: addr, Name: name},
	}
	r.slots[id] = slot
	return slot
}

func cutAddr(b []byte, ipv6 bool) (netip.Addr, []byte) {
	length := 4
	if ipv6 {
		length = 16
	}
	if len(b) < length {
		return netip.Addr{}, nil
	}
	addr, _ := netip.AddrFromSlice(b[:length])
	return addr, b[length:]
}
