package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/portway-dev/portway/rules"
)

// pass is one attempt to bring the kernel to a State.
type pass struct {
	*Programmer
	ctx        context.Context // of this call of Program
	state      *rules.State
	operations int
	// sweeps are the committed plans that leave something to delete.
	sweeps []*plan
	// removed are the Frontends whose listener a commit has deleted.
	removed []rules.FrontendKey
	// splits left: how many more batches may be halved to find who spoils them.
	splits int
}

// maxSplits bounds the batches a pass sends to isolate Frontends that the kernel
// refuses: enough for four among 10 000.
const maxSplits = 64

func (p *pass) run() error {
	defer p.encoder.shrink()
	if err := p.connect(); err != nil {
		return err
	}
	if !p.synced {
		if err := p.adopt(p.ctx); err != nil {
			return errors.Join(err, p.disconnect()) // answers may still be under way
		}
		p.Programmer.state = nil
	}
	keys, exclusives := p.changes(), p.exclusives()
	if p.Programmer.state = p.state; !p.state.Partial() {
		p.own = nil
	}
	clear(p.pending)
	p.sweeps, p.splits = nil, maxSplits
	idle := len(keys)+len(exclusives) == 0 && p.kernel.clean()
	if err := p.verify(idle); err != nil {
		p.failAll(keys, err)
		return err
	}
	if idle {
		return p.misfit
	}
	err := p.commitAll(keys)
	if err == nil || p.synced {
		err = errors.Join(err, p.commitExclusives(exclusives))
	}
	if err != nil && !p.synced {
		return err // to delete anything takes a model to trust, see the next pass
	}
	return errors.Join(err, p.misfit, p.tidy())
}

// window is how many Frontends are compiled ahead of their commit, which bounds
// the memory of a large change.
const window = 1024

// draft is a Frontend on its way to a plan.
type draft struct {
	key      rules.FrontendKey
	was, now *program
	frontend *rules.Frontend // nil: it goes
	plan     *plan           // from the one to the other, nil if there is neither
	err      error           // no kernel could program it
}

// commitAll commits a window while the next one is compiled: most of the time it is the
// kernel that works.
func (p *pass) commitAll(keys []rules.FrontendKey) error {
	for drafts := p.drafts(keys[:min(window, len(keys))])(); len(keys) > 0; {
		rest := keys[len(drafts):]
		var next func() []draft
		if len(rest) > 0 {
			next = p.drafts(rest[:min(window, len(rest))])
		}
		err := p.commit(p.plans(drafts))
		drafts, keys = nil, rest
		if next != nil {
			drafts = next()
		}
		if err != nil {
			p.failAll(rest, err)
			return err
		}
	}
	return nil
}

// drafts has Frontends compiled and compared, which depends on nothing but what the kernel holds for each
// of them; the function that is returned waits for that.
func (p *pass) drafts(keys []rules.FrontendKey) (await func() []draft) {
	drafts := make([]draft, len(keys))
	for i, key := range keys {
		drafts[i] = draft{key: key, was: p.kernel.programs[key], frontend: p.state.Frontend(key)}
	}
	work := func() {
		for i := range drafts {
			d := &drafts[i]
			if d.compile(); d.err == nil && (d.was != nil || d.now != nil) {
				d.plan = newPlan(d.key, d.was, d.now)
			}
		}
	}
	if len(keys) < window/8 { // faster than to wake somebody
		return func() []draft {
			work()
			return drafts
		}
	}
	var working sync.WaitGroup
	working.Go(work)
	return func() []draft {
		working.Wait()
		return drafts
	}
}

func (d *draft) compile() {
	if d.frontend == nil {
		return
	}
	if d.err = rules.Validate(d.key, d.frontend); d.err != nil {
		return
	}
	d.now = compile(d.key, d.frontend, d.was.previous())
}

// changes returns the Frontends to look at: those that differ from the last State,
// those that State could not have, and after reading the table back all.
func (p *pass) changes() []rules.FrontendKey {
	var keys []rules.FrontendKey
	for _, c := range rules.Changes(p.Programmer.state, p.state) {
		keys = append(keys, c.Key)
	}
	extra := len(keys)
	for key := range p.pending {
		keys = append(keys, key)
	}
	if p.sweepsUnknown() {
		for key := range p.kernel.programs {
			if p.state.Frontend(key) == nil {
				keys = append(keys, key)
			}
		}
	}
	if len(keys) > extra {
		slices.SortFunc(keys, rules.FrontendKey.Compare)
		keys = slices.Compact(keys)
	}
	return keys
}

// sweepsUnknown reports whether Frontends go that the kernel holds and no State of
// this process named: with the first complete State.
func (p *pass) sweepsUnknown() bool {
	last := p.Programmer.state
	return !p.state.Partial() && (last == nil || last.Partial())
}

// plans takes the plans of the drafts. What no kernel could program is left out, and so is what a former process
// knew better; their old rules stay.
func (p *pass) plans(drafts []draft) []*plan {
	plans := make([]*plan, 0, len(drafts))
	for i := range drafts {
		switch d := &drafts[i]; {
		case d.err != nil:
			p.pending[d.key] = failure{d.frontend.Owner.Gateway, fmt.Errorf("program %w", d.err)}
		case d.now != nil && p.knewBetter(d.key, d.was, d.now):
			p.fail(d.key, errKept)
		case d.plan != nil:
			plans = append(plans, d.plan)
		}
	}
	return plans
}

// errKept says why a Frontend is not as the State wants it.
var errKept = errors.New("its rules from before the restart are kept: no endpoint of it is known, and not everything could be read yet")

// knewBetter reports whether a former process found endpoints for a Frontend that has none
// now, while all that this process was told is known to lack something.
func (p *pass) knewBetter(key rules.FrontendKey, was, now *program) bool {
	if p.own == nil || !now.refuses() || !was.serves() {
		return false
	}
	_, own := p.own[key]
	_, live := was.live(0)
	return !own && live && was.listener != chainForeign && !was.refuses()
}

// verify looks whether anybody else changed the ruleset of the namespace since our
// last commit and, if so, whether our table is still the one we know and has its
// rules, so that what somebody deleted comes back with this pass.
//
// As long as nobody else commits that is one small request. But kube-proxy does,
// often, and to read the rules of all 327 chains takes 4 to 5 ms, fifty times as
// long as a small change. A pass that has something to do therefore looks at the
// twelve chains only that all listeners share, 0.3 ms, which nobody spares who
// flushes the table; the next one that has not looks at the whole ladder.
func (p *pass) verify(idle bool) error {
	now, err := p.query.generation()
	if err != nil {
		return p.broken(err)
	}
	if now != p.generation {
		handle, exists, err := p.query.handle()
		if err != nil {
			return p.broken(err)
		}
		if !exists || handle != p.handle {
			return errVanished
		}
	} else if !idle || !p.unread {
		return nil
	}
	intact, err := p.intact(idle)
	if err != nil {
		return p.broken(err)
	}
	if !intact {
		return errAltered
	}
	p.generation = now // not what it is by now: somebody may have committed meanwhile
	p.unread = !idle
	return nil
}

// intact reports whether our chains have the rules they should have, all of them
// or those that listeners share. Chains that are none of ours do not count, as
// nothing of ours leads there.
func (p *pass) intact(all bool) (bool, error) {
	wanted, err := p.layout.fingerprints()
	if err != nil {
		return false, err
	}
	var only []string
	if !all {
		only = p.layout.trunk()
	}
	present, err := p.query.rules(only...)
	if err != nil {
		return false, err
	}
	for i, ch := range p.layout.chains {
		if (all || !ladderChain(ch.Name)) && !slices.Equal(present[ch.Name], wanted[i]) {
			return false, nil
		}
	}
	return true, nil
}

// broken ends the trust in the model and in the connections.
func (p *Programmer) broken(err error) error {
	p.stats.Failures++
	p.synced = false
	return errors.Join(err, p.disconnect())
}

func (p *pass) fail(key rules.FrontendKey, err error) {
	gateway := ""
	if f := p.state.Frontend(key); f != nil {
		gateway = f.Owner.Gateway
	}
	p.pending[key] = failure{gateway, fmt.Errorf("program frontend %s: %w", key, err)}
}

func (p *pass) failAll(keys []rules.FrontendKey, err error) {
	for _, key := range keys {
		p.fail(key, err)
	}
}
