package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/portway-dev/portway/rules"
)

// pass is one attempt to bring the kernel to a State.
type pass struct {
	*Programmer
	ctx        context.Context // of this call of Program
	state      *rules.State
	operations int
	removed    []rules.FrontendKey
	altered    bool // others had changed what is ours
	whole      bool // it failed for all
	splits     int  // left: how many more restores may be spent to find who spoils them
}

// maxSplits bounds the restores a pass makes to isolate Frontends that the kernel
// refuses: enough for four among 10 000.
const maxSplits = 64

func (p *pass) run() error {
	p.splits = maxSplits
	var errs []error
	for _, k := range p.families {
		if err := p.family(k); err != nil {
			errs = append(errs, err)
		}
	}
	if p.noIPv6 != nil {
		for key := range p.state.All() {
			if key.Addr.Is6() {
				p.fail(key, p.noIPv6)
			}
		}
	}
	if len(errs) == 0 && !p.swept {
		err := p.sweepOther(p.ctx)
		p.swept = err == nil
		return err
	}
	return errors.Join(errs...)
}

// family brings one family to the State.
func (p *pass) family(k *kernel) error {
	before := k.look()
	present, err := k.read(p.ctx)
	if err != nil {
		return p.lost(k, err)
	}
	found, _ := present.services()
	p.compare(k, present, found)
	wanted := p.target(k, present, found)
	c := wanted.changes(present)
	if c.empty() {
		p.settle(k, wanted, present, found)
		k.print = before
		return nil
	}
	var untidy error
	if p.try(k, append(c.with(c.units), c.tidy...)) != nil {
		if c, err = p.isolate(k, wanted); err != nil {
			return p.lost(k, err)
		}
		untidy = p.try(k, c.tidy)
	}
	for _, j := range c.jumps {
		if err := k.enter(j); err != nil {
			return p.lost(k, err)
		}
		p.operations++
	}
	p.settle(k, wanted, present, found)
	if len(p.pending) > 0 { // which are tried again before long, and everything is read then
		k.print = k.look()
	}
	if untidy != nil {
		k.last = nil
		return fmt.Errorf("refuse what nobody serves, remove what is not needed: %w", untidy)
	}
	return nil
}

// read reads what the kernel holds, and notices what others replaced in it.
func (k *kernel) read(ctx context.Context) (image, error) {
	m, err := k.tools.read(ctx)
	m.recognise(k.seen)
	return m, err
}

// lost ends what is known of a family.
func (p *pass) lost(k *kernel, err error) error {
	k.last, p.whole = nil, true
	return err
}

// compare notices what others changed since the last pass. Nothing is proven then.
func (p *pass) compare(k *kernel, present image, found map[rules.FrontendKey]service) {
	altered := k.last != nil && !k.last.changes(present).empty()
	for key := range k.held {
		_, there := found[key]
		altered = altered || (k.last != nil && !there)
	}
	if altered {
		p.stats.Altered++
		p.altered, p.committed = true, make(map[string]string)
	}
}

// target compiles the Frontends of a family, those anew that are not the same as with
// the last State, and says which ones are to stay as they are.
func (p *pass) target(k *kernel, present image, found map[rules.FrontendKey]service) *target {
	t := &target{
		ordered:   ordered(p.config, k.able, k.ipv6),
		programs:  make(map[rules.FrontendKey]*program, len(k.programs)),
		exclusive: p.exclusives(k, present),
		kept:      make(map[rules.FrontendKey]bool),
	}
	for key, f := range p.state.All() {
		if key.Addr.Is6() != k.ipv6 {
			continue
		}
		if known := k.programs[key]; known != nil && known.frontend == f {
			t.programs[key] = known
			continue
		}
		if err := rules.Validate(key, f); err != nil {
			p.pending[key] = failure{f.Owner.Gateway, fmt.Errorf("program %w", err)}
			t.kept[key] = true
			continue
		}
		t.programs[key] = compile(key, f, p.config, k.able.hash)
	}
	p.keepBetter(k, t, present, found)
	if k.unknown == nil {
		k.unknown = make(map[rules.FrontendKey]bool)
		for key := range found {
			k.unknown[key] = true
		}
	}
	for key := range k.unknown {
		switch _, there := found[key]; {
		case !there, !p.state.Partial(), p.state.Frontend(key) != nil:
			delete(k.unknown, key)
		default:
			t.kept[key] = true
		}
	}
	k.programs = t.programs
	return t
}

// errKept says why a Frontend is not as the State wants it.
var errKept = errors.New("its rules from before the restart are kept: no endpoint of it is known, and not everything could be read yet")

// keepBetter keeps what a former process made of Frontends that have no endpoint now, while
// all that this process was told is known to lack something.
func (p *pass) keepBetter(k *kernel, t *target, present image, found map[rules.FrontendKey]service) {
	if !p.state.Partial() {
		k.own = nil
	}
	if k.own == nil {
		return
	}
	for key, now := range t.programs {
		old, there := found[key]
		if all, _ := outcomes(now.frontend); len(all) == 0 && there && !k.own[key] && present.serves(old) {
			delete(t.programs, key)
			t.kept[key] = true
			p.fail(key, errKept)
		}
	}
}

// settle notes what a pass that knows what it did has made of a family.
func (p *pass) settle(k *kernel, t *target, present image, found map[rules.FrontendKey]service) {
	held := make(map[rules.FrontendKey]bool, len(t.programs))
	for key := range t.programs {
		held[key] = true
		if k.own != nil {
			k.own[key] = true
		}
	}
	gone := func(key rules.FrontendKey) {
		if _, there := found[key]; t.kept[key] && (there || p.state.Frontend(key) != nil) {
			held[key] = true
		} else if !held[key] {
			p.removed = append(p.removed, key)
		}
	}
	for key := range k.held {
		gone(key)
	}
	for key := range found {
		if !k.held[key] {
			gone(key)
		}
	}
	k.held, k.last, k.seen = held, t, t.appearances(present)
}

// isolate finds the Frontends to blame for a commit that failed, commits all others, and
// keeps those as they are. It returns what is then left to do.
func (p *pass) isolate(k *kernel, t *target) (*change, error) {
	c, err := p.again(k, t)
	if err != nil {
		return nil, err
	}
	if err := p.try(k, c.with(nil)); err != nil {
		return nil, err
	}
	p.halve(k, t, c.units)
	return p.again(k, t)
}

// again reads what a failed commit has left and compares.
func (p *pass) again(k *kernel, t *target) (*change, error) {
	present, err := k.read(p.ctx)
	if err != nil {
		return nil, err
	}
	return t.changes(present), nil
}

// try commits sections and counts.
func (p *pass) try(k *kernel, sections []section) error {
	err := k.commit(p.ctx, sections)
	if err != nil {
		p.stats.Failures++
		return err
	}
	p.operations += operations(sections)
	return nil
}

// halve commits units, in halves where they fail, until those to blame are alone.
func (p *pass) halve(k *kernel, t *target, units []unit) {
	if len(units) == 0 {
		return
	}
	only := &change{base: []section{{table: natTable}}}
	p.splits--
	err := p.try(k, only.with(units))
	if err == nil {
		return
	}
	if len(units) > 1 && p.splits > 0 && p.ctx.Err() == nil {
		p.halve(k, t, units[:len(units)/2])
		p.halve(k, t, units[len(units)/2:])
		return
	}
	for _, u := range units {
		p.fail(u.key, err)
		delete(t.programs, u.key)
		t.kept[u.key] = true
	}
}
