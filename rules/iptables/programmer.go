package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// Programmer keeps our chains in the kernel as a State wants them. It is to be used by
// one goroutine at a time.
type Programmer struct {
	config   Config
	variant  Variant
	families []*kernel // IPv4 and, where there is IPv6, IPv6
	noIPv6   error     // why Frontends of IPv6 cannot be programmed; nil where there is no IPv6 to serve
	limits   []string  // see Limitations
	stats    Stats

	state     *rules.State
	pending   map[rules.FrontendKey]failure // of the last pass
	committed map[string]string
	swept     bool // the other variant has nothing of ours
}

// kernel is one family: what there is to change it by, and what is known of it.
type kernel struct {
	*tools
	able     ability
	programs map[rules.FrontendKey]*program // compiled, of the last State
	// last is what the kernel held after the last pass, nil where that is not known.
	last *target
	// print is what it looked like when a pass last found nothing to do.
	print print
	// seen is how our chains were printed when last read.
	seen map[place]appearance
	// held are the Frontends that it held then, unknown those of them that no State of
	// this process named.
	held, unknown map[rules.FrontendKey]bool
	// own are those that this process made; nil, as nobody asks, once a State was complete.
	own map[rules.FrontendKey]bool
}

// failure is why a Frontend is not as wanted.
type failure struct {
	gateway string // empty when its digest is committed all the same
	err     error
}

// Stats counts since New.
type Stats struct {
	Commands int // run; none by a look
	Restores int // of them, those that changed something
	Failures int // of those, the ones that failed
	Altered  int // times our chains or the way to them were changed by somebody else
}

// Stats returns the counts so far.
func (p *Programmer) Stats() Stats { return p.stats }

// Variant returns the variant in use.
func (p *Programmer) Variant() Variant { return p.variant }

// New finds the variant the node uses and checks that the kernel has everything the rules
// cannot do without. It changes nothing; chains that are already there go on working and
// are taken over by the first Program. Without a way to filter IPv6 it does IPv4 only,
// see Limitations. Where iptables or the kernel cannot do it at all the error is an
// UnableError, and os.ErrPermission without the right to.
func New(c Config) (*Programmer, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	p := &Programmer{config: c, pending: make(map[rules.FrontendKey]failure), committed: make(map[string]string)}
	if err := inside(c.NetNS, func() error { return p.open(context.Background()) }); err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return p, nil
}

func (p *Programmer) open(ctx context.Context) (err error) {
	if p.variant = p.config.Variant; p.variant == Auto {
		if p.variant, err = detect(ctx); errors.Is(err, exec.ErrNotFound) {
			return &UnableError{"command iptables", err}
		} else if err != nil {
			return err
		}
	}
	p.limits = slices.Clone(semantics)
	if err := p.addFamily(ctx, false); err != nil {
		return err
	}
	switch err := p.addFamily(ctx, true); {
	case err == nil:
	case errors.Is(err, errLocked):
		return err
	case !hasIPv6():
		p.limits = append(p.limits, "this kernel has IPv6 off: there is nothing to serve of IPv6")
	default:
		p.noIPv6 = fmt.Errorf("IPv6 is not served: %w", err)
		p.limits = append(p.limits, p.noIPv6.Error()+"; cure: install ip6tables and the kernel's module ip6table_nat or nf_tables")
	}
	return nil
}

func (p *Programmer) addFamily(ctx context.Context, ipv6 bool) error {
	t, err := findTools(p.variant, ipv6, &p.stats)
	if err != nil {
		return &UnableError{"command " + family(ipv6) + " of variant " + string(p.variant), err}
	}
	if err := t.probe(ctx, p.config); err != nil {
		return err
	}
	k := &kernel{tools: t, own: make(map[rules.FrontendKey]bool)}
	for _, o := range []struct {
		able *bool
		rule string
		lack string
	}{
		{&k.able.hash, digit(0, 0), noHash},
		{&k.able.redirect, echoRequest(ipv6) + "-j REDIRECT", noRedirect},
		{&k.able.local, isLocal + "-j RETURN", noLocal},
	} {
		*o.able = t.try(ctx, []feature{{"", natTable, o.rule}}) == nil
		if !*o.able && !slices.Contains(p.limits, o.lack) {
			p.limits = append(p.limits, o.lack)
		}
	}
	p.families = append(p.families, k)
	return nil
}

// Close exists for the sake of symmetry: nothing is held open. The rules stay and go on
// working.
func (p *Programmer) Close() error { return nil }

// Program makes the kernel forward what the State says. It reads our chains, in two
// commands a family, and writes what differs, in one; where nothing differs nothing is
// written. What others did to our chains meanwhile is thereby noticed and mended.
//
// What cannot be programmed keeps its old rules, is named in Results.Errors by its
// Gateway and in the error, and is tried again by the next Program.
func (p *Programmer) Program(ctx context.Context, state *rules.State) (rules.Results, error) {
	pass := &pass{Programmer: p, ctx: ctx, state: state}
	clear(p.pending)
	err := inside(p.config.NetNS, pass.run)
	results := rules.Results{
		Removed: pass.removed, Operations: pass.operations, Restored: pass.altered && err == nil && len(p.pending) == 0,
		Errors: p.gatewayErrors(state, err, pass.whole),
	}
	slices.SortFunc(results.Removed, rules.FrontendKey.Compare)
	results.Committed = p.proven(state, results.Errors)
	if p.state = state; err == nil {
		err = p.firstFailure()
	}
	if err != nil {
		err = fmt.Errorf("iptables: %w", err)
	}
	return results, err
}

// gatewayErrors tells why Gateways of the State are not committed: all of them, where
// what they have in common failed.
func (p *Programmer) gatewayErrors(state *rules.State, err error, whole bool) map[string]error {
	out := make(map[string]error)
	if whole {
		for gateway := range state.Digests() {
			out[gateway] = err
		}
		return out
	}
	for _, key := range slices.SortedFunc(maps.Keys(p.pending), rules.FrontendKey.Compare) {
		if f := p.pending[key]; f.gateway != "" && out[f.gateway] == nil {
			out[f.gateway] = f.err
		}
	}
	return out
}

// proven returns the digest committed of each Gateway.
func (p *Programmer) proven(state *rules.State, failed map[string]error) map[string]string {
	next := make(map[string]string)
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

func (p *pass) fail(key rules.FrontendKey, err error) {
	gateway := ""
	if f := p.state.Frontend(key); f != nil {
		gateway = f.Owner.Gateway
	}
	p.pending[key] = failure{gateway, fmt.Errorf("program frontend %s: %w", key, err)}
}
