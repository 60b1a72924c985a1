package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// commit sends slots and switches of all plans: as many Frontends in one batch as
// fit. It returns an error only when the rest is not worth trying.
func (p *pass) commit(plans []*plan) error {
	for len(plans) > 0 {
		n := p.fitting(plans)
		if err := p.commitGroup(plans[:n]); err != nil {
			p.failPlans(plans[n:], err)
			return err
		}
		plans = plans[n:]
	}
	return nil
}

// memberBytes is the most that the element of a member takes.
const memberBytes = 64

// fitting returns how many of the plans fit into one batch, at least one.
func (p *pass) fitting(plans []*plan) int {
	bytes := 0
	for i, pl := range plans {
		for _, ops := range [][]op{pl.slots, pl.switches} {
			for j := range ops {
				bytes += ops[j].size()
			}
		}
		if pl.now != nil {
			bytes += memberBytes * len(pl.now.members)
		}
		if i > 0 && !p.conn.fits(bytes) {
			return i
		}
	}
	return len(plans)
}

// commitGroup commits the plans at once. When the kernel refuses, it halves them
// until the one to blame is alone, so that it does not keep the others.
func (p *pass) commitGroup(plans []*plan) error {
	ops := p.kernel.members.acquire(plans)
	room := 0
	for _, pl := range plans {
		room += len(pl.slots) + len(pl.switches)
	}
	ops = slices.Grow(ops, room)
	for _, pl := range plans {
		ops = append(ops, pl.slots...)
	}
	for _, pl := range plans {
		ops = append(ops, pl.switches...)
	}
	sent, err := p.send(ops)
	p.note(ops[:sent])
	if err != nil {
		p.kernel.members.dismiss(ops[sent:])
		for _, pl := range plans {
			p.kernel.members.release(pl.now)
		}
	}
	switch {
	case err == nil:
		for _, pl := range plans {
			p.count(pl)
			if pl.now == nil && pl.was.serves() {
				p.removed = append(p.removed, pl.key)
			}
			p.settle(pl, pl.kept)
			if len(pl.sweep) > 0 {
				p.sweeps = append(p.sweeps, pl)
			}
		}
		return nil
	case !rejected(err):
		p.failPlans(plans, err)
		return err
	}
	if gone := p.reconnect(); gone != nil {
		p.failPlans(plans, err)
		return gone
	}
	if len(plans) == 1 || p.splits == 0 {
		p.failPlans(plans, err)
		return nil
	}
	p.splits--
	half := len(plans) / 2
	if err := p.commitGroup(plans[:half]); err != nil {
		p.failPlans(plans[half:], err)
		return err
	}
	return p.commitGroup(plans[half:])
}

func (p *pass) failPlans(plans []*plan, err error) {
	for _, pl := range plans {
		p.fail(pl.key, err)
	}
}

// reconnect goes on after a batch that the kernel refused. Its cause may be that
// the table is gone.
func (p *pass) reconnect() error {
	if err := p.connect(); err != nil {
		return err
	}
	handle, exists, err := p.query.handle()
	switch {
	case err != nil:
		return err
	case !exists || handle != p.handle:
		return errVanished
	}
	return nil
}

// count settles whose members count: no longer those of the old program.
func (p *pass) count(pl *plan) {
	p.kernel.members.release(pl.was)
	if pl.now != nil { // hence kept, which is the same or has the same members
		pl.now.members, pl.kept.members = nil, nil
		pl.kept.counted = pl.now.counted
	}
}

// settle records what the kernel holds for a Frontend now.
func (p *pass) settle(pl *plan, holds *program) {
	pl.was = holds
	if p.own != nil {
		p.own[pl.key] = struct{}{}
	}
	if holds == nil {
		delete(p.kernel.programs, pl.key)
		return
	}
	p.kernel.programs[pl.key] = holds
}

// tidy deletes what nothing leads to any more, in a commit behind the one that
// made it so, and for a Frontend that is not committed nothing. What this process
// knows nothing of stays while the State is partial: something may lead there. So do
// the members that nobody seems to need, and chains and sets of another build, while rules
// are kept that may need them.
func (p *pass) tidy() error {
	var ops []op
	for _, pl := range p.sweeps {
		ops = append(ops, pl.sweep...)
	}
	kept := p.state.Partial() || p.keepsAdopted()
	if !p.state.Partial() {
		if !kept {
			ops = append(ops, p.kernel.members.unused()...)
		}
		ops = append(ops, p.kernel.foreign...)
	}
	err := p.connect()
	if err == nil {
		var sent int
		sent, err = p.send(ops)
		p.note(ops[:sent])
	}
	if err == nil && !kept {
		err = p.flushSteps(p.ctx, p.layout.leftovers(p.kernel.chains, p.kernel.sets))
	}
	if err != nil {
		for _, pl := range p.sweeps { // they serve as wanted already, hence no Gateway
			p.pending[pl.key] = failure{"", fmt.Errorf("remove what frontend %s no longer needs: %w", pl.key, err)}
		}
		return fmt.Errorf("remove what is no longer needed: %w", err)
	}
	for _, pl := range p.sweeps {
		p.settle(pl, pl.now)
	}
	p.kernel.members.shrink()
	if p.state.Partial() {
		return nil
	}
	p.kernel.foreign = nil
	if !kept {
		p.kernel.chains, p.kernel.sets = nil, nil
	}
	return nil
}

// keepsAdopted reports whether a Frontend keeps rules that were read back: which members and
// chains they need is not known.
func (p *pass) keepsAdopted() bool {
	for key := range p.pending {
		if was := p.kernel.programs[key]; was != nil && was.adopted {
			return true
		}
	}
	return false
}

// replacedBy reports whether the operation deletes the element that the next one
// adds anew.
func (o op) replacedBy(next op) bool {
	return o.del && !next.del && o.set == next.set && o.key == next.key &&
		(o.n == next.n || o.set.kind() == kindRefused)
}

// send commits operations, in one batch if they fit. Where not, they are split in
// order, but never between the deletion and the addition of one key. It returns how many
// are committed; those are still to be noted.
func (p *pass) send(ops []op) (int, error) {
	sent := 0
	for sent < len(ops) {
		rest := ops[sent:]
		n, bytes := p.prefix(rest)
		p.encoder.encode(rest[:n], bytes)
		commit := func() error { return p.conn.commit(&p.encoder.batch) }
		if err := p.flush(p.ctx, commit, rest[:n]); err != nil {
			return sent, err
		}
		p.operations += n
		sent += n
	}
	return sent, nil
}

// note records operations that the kernel committed.
func (p *pass) note(ops []op) {
	for i := range ops {
		p.kernel.members.note(&ops[i])
	}
}

// prefix returns how many of the operations fit into one batch, and the most that their
// elements take.
func (p *pass) prefix(ops []op) (n, bytes int) {
	for i := range ops {
		size := ops[i].size()
		if p.conn.fits(bytes + size) {
			bytes += size
			continue
		}
		if i > 1 && ops[i-1].replacedBy(ops[i]) {
			i--
		}
		return max(i, 1), bytes + size
	}
	return len(ops), bytes
}

// flushSteps commits the static part, in as few batches as the buffers allow.
func (p *Programmer) flushSteps(ctx context.Context, steps []step) error {
	var total cost
	for _, s := range steps {
		if total != (cost{}) && !total.plus(s.cost).within(p.conn.limit) {
			if err := p.flushEncoded(ctx, total.messages); err != nil {
				return err
			}
			total = cost{}
		}
		if err := s.add(p.conn.Conn); err != nil {
			return p.broken(err)
		}
		total = total.plus(s.cost)
	}
	if total == (cost{}) {
		return nil
	}
	return p.flushEncoded(ctx, total.messages)
}

// flushEncoded commits what the library has encoded, which are so many messages.
func (p *Programmer) flushEncoded(ctx context.Context, messages int) error {
	return p.flush(ctx, func() error { return p.conn.flush(messages) }, nil)
}

// flush has commit send what is encoded. After an error the connections are closed, as
// answers may still be under way, and nothing about the kernel is taken for
// granted any more.
func (p *Programmer) flush(ctx context.Context, commit func() error, ops []op) error {
	if err := ctx.Err(); err != nil {
		return errors.Join(err, p.disconnect()) // drops what is encoded
	}
	var before, after error
	if p.fault != nil {
		before, after = p.fault(p.stats.Batches)
	}
	p.stats.Batches++
	err := before
	if err == nil {
		if err = commit(); err == nil {
			p.nextGeneration()
			err = after
		}
	}
	if err == nil {
		return nil
	}
	if len(ops) > 0 {
		err = fmt.Errorf("commit %s: %w", logged(ops), err)
	}
	return p.broken(err)
}

// nextGeneration counts our own commit, as the kernel does.
func (p *Programmer) nextGeneration() {
	if p.generation++; p.generation == 0 {
		p.generation++
	}
}
