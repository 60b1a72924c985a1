package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// Programmer keeps one table in the kernel as a State wants it. It is to be used
// by one goroutine at a time.
type Programmer struct {
	config  Config
	layout  *layout
	conn    *conn  // nil after a failure, until it is needed again
	query   *query // nil likewise
	stats   Stats
	encoder encoder
	// exchanged is on both connections, told what Results have of it.
	exchanged, told exchange
	limits          []string // see Limitations

	// kernel is what every acknowledged batch has made of the table. It is true
	// while synced; a failure ends that and the next pass reads the table back.
	kernel *kernel
	synced bool
	// handle and generation recognise changes by others, see verify; unread says
	// that others made some since all rules were looked at.
	handle     uint64
	generation uint32
	unread     bool

	// state is what the last pass was for; what it did not achieve is in pending.
	state     *rules.State
	own       map[rules.FrontendKey]struct{} // programmed by this process; nil, as nobody asks, since a State was complete
	pending   map[rules.FrontendKey]failure
	misfit    error // exclusive addresses that are none
	committed map[string]string
	missed    map[rules.FrontendKey]struct{} // gone from the kernel without a commit of ours, and not yet told of
	provenAll *rules.State                   // committed holds all digests of this State; nil: of none
	lost      bool                           // what was proven is gone from the kernel, and nothing is in its place yet

	// For tests: fault makes a batch fail before it is sent, or after; limit
	// replaces what the socket buffers allow.
	fault func(batch int) (before, after error)
	limit *cost
}

// failure is why a Frontend is not as wanted.
type failure struct {
	gateway string // empty when its digest is committed all the same
	err     error
}

// Stats counts since New. Only Batches grows in normal operation.
type Stats struct {
	Batches   int // sent to the kernel
	Failures  int // of them, those that failed
	ReadBacks int // passes that had to read the table back: the first, and after failures and changes by others
	Vanished  int // times our table was deleted by somebody else
	Altered   int // times our rules were changed by somebody else
	Rebuilt   int // times a table was in the way that could not be made ours
}

// Stats returns the counts so far.
func (p *Programmer) Stats() Stats { return p.stats }

// New checks that the kernel has everything the rules cannot do without, see Probe, and
// opens the connection. Other features may be missing, see Limitations. It changes nothing
// but what a killed probe left; our table, if it is there, goes on working and is taken
// over by the first Program.
func New(c Config) (*Programmer, error) { return open(c, try) }

func open(c Config, try prober) (*Programmer, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	missing, err := probe(c, try)
	if err != nil {
		return nil, err
	}
	able := everything
	for _, f := range missing {
		f.lost(&able)
	}
	p := &Programmer{
		config: c, layout: newLayout(c, able), kernel: newKernel(), limits: limitations(missing),
		pending: make(map[rules.FrontendKey]failure), committed: make(map[string]string),
		missed: make(map[rules.FrontendKey]struct{}), own: make(map[rules.FrontendKey]struct{}),
	}
	p.encoder.sets = &p.layout.sets
	if err := p.connect(); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return p, nil
}

// Limitations says, a sentence each, what does not work as it should because this kernel
// lacks something, and the cure.
func (p *Programmer) Limitations() []string { return slices.Clone(p.limits) }

func (p *Programmer) connect() error {
	var err error
	if p.conn == nil {
		if p.conn, err = openConn(p.config); err != nil {
			return err
		}
		if p.conn.count = &p.exchanged; p.limit != nil {
			p.conn.limit = *p.limit
		}
	}
	if p.query == nil {
		if p.query, err = openQuery(p.config); err != nil {
			return err
		}
		p.query.count = &p.exchanged
	}
	return nil
}

// disconnect drops connections with who knows what still to be received.
func (p *Programmer) disconnect() error {
	var errs []error
	if p.conn != nil {
		errs = append(errs, p.conn.CloseLasting())
		p.conn = nil
	}
	if p.query != nil {
		errs = append(errs, p.query.Close())
		p.query = nil
	}
	return errors.Join(errs...)
}

// Close closes the connection. The rules stay and go on working.
func (p *Programmer) Close() error { return p.disconnect() }

// Cleanup removes our table and what a killed probe left, and nothing else. It succeeds
// when there is none.
func (p *Programmer) Cleanup(ctx context.Context) error {
	if err := p.cleanup(ctx); err != nil {
		return fmt.Errorf("nftables: remove table inet %s: %w", p.config.Table, err)
	}
	if err := sweepProbes(p.config); err != nil {
		return fmt.Errorf("nftables: remove tables that a probe left: %w", err)
	}
	p.synced, p.kernel = false, newKernel()
	clear(p.missed)
	p.state, p.provenAll, p.committed = nil, nil, make(map[string]string)
	p.misfit = nil
	clear(p.pending)
	return nil
}

func (p *Programmer) cleanup(ctx context.Context) error {
	if err := p.connect(); err != nil {
		return err
	}
	if _, exists, err := p.query.handle(); err != nil || !exists {
		return err
	}
	p.conn.DelTable(p.layout.table)
	return p.flushEncoded(ctx, 1)
}

// unprove takes back what was proven: the kernel does not hold it any more. The
// map may have been handed out.
func (p *Programmer) unprove() {
	p.lost, p.provenAll, p.committed = true, nil, make(map[string]string)
}

var (
	// errVanished says that our table is gone, or is another one of the same name.
	errVanished = errors.New("the table was deleted by somebody else")
	// errAltered says that our chains have not the rules they should have.
	errAltered = errors.New("the rules were changed by somebody else")
)

// Program makes the kernel forward what the State says. It is idempotent; where
// nothing differs, nothing is sent. A State must not change after it was handed
// over. The cost follows the difference to the last State by pointer.
//
// What cannot be programmed keeps its old rules, is named in Results.Errors by its
// Gateway and in the error, and is tried again by the next Program. The context is
// looked at between batches; all that was committed until then stays. The maps in
// the Results are not to be changed: the next call may return the same ones.
func (p *Programmer) Program(ctx context.Context, state *rules.State) (rules.Results, error) {
	pass := &pass{Programmer: p, ctx: ctx, state: state}
	err := pass.run()
	vanished, altered := errors.Is(err, errVanished), errors.Is(err, errAltered)
	if (vanished || altered) && ctx.Err() == nil {
		if vanished {
			p.stats.Vanished++
		} else {
			p.stats.Altered++
		}
		p.synced = false
		p.unprove()
		err = pass.run()
	}
	results := rules.Results{
		Removed: pass.gone(), Operations: pass.operations, Restored: (vanished || altered) && err == nil,
		Sent: p.exchanged.sent - p.told.sent, Received: p.exchanged.received - p.told.received,
	}
	p.told = p.exchanged
	results.Errors = p.gatewayErrors(state, err)
	results.Committed = p.proven(state, results.Errors)
	if err == nil {
		err = p.firstFailure()
	}
	if err != nil {
		err = fmt.Errorf("nftables: %w", err)
	}
	return results, err
}

// gone returns the Frontends that the kernel no longer holds: what this pass removed
// and what else is missing that the State does not want back.
func (p *pass) gone() []rules.FrontendKey {
	out := p.removed
	for key := range p.missed {
		switch {
		case !p.synced: // nobody knows
		case p.kernel.programs[key].serves():
			delete(p.missed, key)
		case p.state.Frontend(key) == nil:
			delete(p.missed, key)
			out = append(out, key)
		}
	}
	slices.SortFunc(out, rules.FrontendKey.Compare)
	return slices.Compact(out)
}

// gatewayErrors tells why Gateways of the State are not committed.
func (p *Programmer) gatewayErrors(state *rules.State, err error) map[string]error {
	out := make(map[string]error)
	if !p.synced && (p.lost || p.state != state) {
		for gateway := range state.Digests() { // nothing could be compared, hence anything may be missing
			out[gateway] = err
		}
		return out
	}
	for _, key := range slices.SortedFunc(maps.Keys(p.pending), rules.FrontendKey.Compare) {
		f := p.pending[key]
		if f.gateway != "" && out[f.gateway] == nil {
			out[f.gateway] = f.err
		}
	}
	return out
}

// proven returns the digest committed of each Gateway. The map is made anew only
// when it changes, because it may have been handed out.
func (p *Programmer) proven(state *rules.State, failed map[string]error) map[string]string {
	if len(failed) == 0 && rules.SameDigests(p.provenAll, state) {
		return p.committed
	}
	if p.provenAll = nil; len(failed) == 0 {
		p.provenAll = state
	}
	count, changed := 0, false
	for gateway, digest := range state.Digests() {
		old, known := p.committed[gateway]
		if failed[gateway] == nil {
			changed = changed || !known || old != digest
			count++
		} else if known {
			count++
		}
	}
	if !changed && count == len(p.committed) {
		return p.committed
	}
	next := make(map[string]string, count)
	for gateway, digest := range state.Digests() {
		if failed[gateway] == nil {
			next[gateway] = digest
		} else if old, known := p.committed[gateway]; known {
			next[gateway] = old
		}
	}
	p.committed = next
	return next
}

func (p *Programmer) firstFailure() error {
	if len(p.pending) == 0 {
		return nil
	}
	key := slices.MinFunc(slices.Collect(maps.Keys(p.pending)), rules.FrontendKey.Compare)
	if n := len(p.pending) - 1; n > 0 {
		return fmt.Errorf("%w (and %d more frontends)", p.pending[key].err, n)
	}
	return p.pending[key].err
}
