package firewall

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"github.com/portway-dev/portway/internal/netfilter"
	"github.com/portway-dev/portway/internal/shorten"
	"github.com/portway-dev/portway/rules"
)

// Config is what can be chosen.
type Config struct {
	// Table is the name of our own table, of family inet.
	Table string
	// Mark is the one bit of the conntrack mark that our flows carry.
	Mark uint32
}

// Validate reports what is wrong with the Config.
func (c Config) Validate() error {
	var errs []error
	if c.Table == "" {
		errs = append(errs, errors.New("no name of our table"))
	}
	if bits.OnesCount32(c.Mark) != 1 {
		errs = append(errs, fmt.Errorf("conntrack mark %#x: must be exactly one bit", c.Mark))
	}
	return errors.Join(errs...)
}

// Firewall lets our flows pass the iptables of others, and finds what else drops them.
// It is to be used by one goroutine at a time, and works in the network namespace of
// the thread that calls.
type Firewall struct {
	config Config
	reader *reader
	tools  map[tool]*installed // nil: not installed
	saved  map[tool]map[string]saved

	// What the last Ensure went by and came to.
	done     bool // to its end
	seen     print
	traffic  Traffic
	views    []*view
	basis    basis
	census   census
	to       *destinations
	findings []Finding
}

// basis is what the findings depend on, but for the destinations if rules ask for them.
type basis struct {
	profile          profile
	tables           uint64 // of nf_tables
	legacy4, legacy6 uint64
}

// saved is a table of iptables-nft as its tool shows it.
type saved struct {
	stamp uint64 // of the listing
	table *table // nil: the tool refuses
}

// print tells whether anybody changed rules.
type print struct {
	generation       uint32
	legacy4, legacy6 uint64
}

// New opens the connection to the kernel. It changes nothing.
func New(c Config) (*Firewall, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	conn, err := netfilter.Dial()
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return &Firewall{config: c, reader: &reader{Conn: conn}, tools: map[tool]*installed{}, saved: map[tool]map[string]saved{}}, nil
}

// Close closes the connection; what Ensure added stays.
func (f *Firewall) Close() error {
	if f.reader.Conn == nil {
		return nil
	}
	return f.reader.Close()
}

// Result is what Ensure did and found.
type Result struct {
	// Changed says that our chain or the jump to it was added, put back or removed.
	Changed bool
	// Findings are in a stable order. They are not to be changed.
	Findings []Finding
}

// maxRounds bounds how often Ensure starts anew when others change rules meanwhile.
const maxRounds = 3

// Ensure has our chain where iptables would drop our flows, and nowhere else. Where
// neither the rules of the host nor the traffic changed it costs 0.05 to 0.2 ms; it is to be
// called every second or two. Findings are valid even if there is an error, which says
// what could not be read or changed; the next call tries again.
func (f *Firewall) Ensure(ctx context.Context, t Traffic) (Result, error) {
	if t.State == nil {
		t.State = &rules.State{}
	}
	result := Result{Findings: f.findings}
	for range maxRounds {
		changed, err := f.round(ctx, t)
		result.Changed, result.Findings = result.Changed || changed, f.findings
		if err != nil {
			return result, fmt.Errorf("firewall: %w", err)
		}
		if !changed {
			break
		}
	}
	return result, nil
}

// round looks at the host once; if it changed something, the next has to look at that.
func (f *Firewall) round(ctx context.Context, t Traffic) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	now, err := f.look()
	if err != nil {
		return false, err
	}
	fresh := !f.done || now != f.seen
	if !fresh && t.State == f.traffic.State && slices.Equal(t.Addresses, f.traffic.Addresses) {
		return false, nil
	}
	b := basis{f.census.profile(t), f.basis.tables, now.legacy4, now.legacy6}
	if fresh {
		if b.tables, err = f.readTables(ctx, now); err != nil {
			f.done = false
			return false, err
		}
	}
	if !f.done || b != f.basis || f.to.asked && t.State != f.traffic.State {
		f.to, f.done = &destinations{state: t.State}, false
		changed, err = f.settle(ctx, b.profile)
		f.findings = f.analyse(b.profile)
	}
	f.seen, f.traffic, f.basis, f.done = now, t, b, err == nil && !changed
	return changed, err
}

// Remove removes what Ensure ever added, and nothing else.
func (f *Firewall) Remove(ctx context.Context) error {
	f.done = false
	if _, err := f.readTables(ctx, print{}); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	var errs []error
	for _, v := range f.views {
		switch o := newOpening(v.table, f.config.Mark); {
		case !v.passable():
			if v.tool != nil && v.chain(Chain) != nil {
				errs = append(errs, fmt.Errorf("chain %s is in %s, which cannot be changed here; remove it and the rules that jump to it by hand", Chain, v.named()))
			}
		default:
			if _, err := o.close(f.tools[*v.tool]); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("firewall: remove chain %s: %w", Chain, errors.Join(errs...))
	}
	return nil
}

// look is cheap.
func (f *Firewall) look() (print, error) {
	var p print
	var errs [3]error
	p.generation, errs[0] = f.reader.Generation()
	p.legacy4, errs[1] = legacyStamp(false)
	p.legacy6, errs[2] = legacyStamp(true)
	return p, errors.Join(errs[:]...)
}

// passable says that our chain can be put into the table.
func (v *view) passable() bool {
	return v.tool != nil && !v.foreign && v.missing == "" && v.name == filterTable
}

// skipped are tables that are not looked at: ours, and those whose rules are not about
// our flows or meant as they are. kube-proxy rejects what goes to its own Services'
// addresses, and what NetworkPolicies drop is to be dropped. Tables "nat" of
// iptables-nft may be huge and hold nothing that drops.
func (f *Firewall) skipped(family, name string) bool {
	switch name {
	case f.config.Table:
		return family == "inet"
	case "nat", "raw", "security":
		return family != "inet"
	case "kube-proxy", "calico", "kube-network-policies":
		return true
	default:
		return strings.HasPrefix(name, f.config.Table+"-probe-")
	}
}

// readTables reads all tables that may concern our flows, and returns what tells
// whether those of nf_tables are the same as the last time.
func (f *Firewall) readTables(ctx context.Context, now print) (stamp uint64, err error) {
	listings, err := f.reader.tables(f.skipped)
	if err != nil {
		return 0, err
	}
	var all maphash.Hash
	all.SetSeed(stampSeed)
	var views []*view
	for _, l := range listings {
		fmt.Fprintln(&all, l.family, l.name, l.stamp)
		v := &view{table: &l.table}
		if l.family != "inet" && (l.name == filterTable || l.name == "mangle") {
			if err := f.readNFT(ctx, v, l.stamp); err != nil {
				return 0, err
			}
		}
		views = append(views, v)
	}
	if f.done && f.seen.legacy4 == now.legacy4 && f.seen.legacy6 == now.legacy6 {
		for _, v := range f.views {
			if v.tool != nil && v.tool.legacy {
				views = append(views, v)
			}
		}
		f.views = views
		return all.Sum64(), nil
	}
	for _, v6 := range []bool{false, true} {
		found, err := f.readLegacy(ctx, tool{legacy: true, v6: v6})
		if err != nil {
			return 0, err
		}
		views = append(views, found...)
	}
	f.views = views
	return all.Sum64(), nil
}

func (f *Firewall) readLegacy(ctx context.Context, t tool) ([]*view, error) {
	names, err := netfilter.XTables(t.v6)
	if err != nil {
		return nil, err
	}
	var out []*view
	for _, name := range names {
		if !relevantLegacy(name) {
			continue
		}
		v := &view{tool: &t, table: &table{family: t.family(), name: name}}
		program, err := f.tool(t)
		if err != nil {
			return nil, err
		}
		if program == nil {
			v.missing = notInstalled
		} else if shown, err := program.read(ctx, t, name); err == nil {
			v.table = shown
		} else if ctx.Err() != nil {
			return nil, ctx.Err()
		} else { // without CAP_NET_RAW it sees nothing; no other try will help
			v.missing = fmt.Sprintf("fails where the agent runs (%v; does it have CAP_NET_RAW?)", err)
		}
		out = append(out, v)
	}
	return out, nil
}

// readNFT replaces the listing of a table of iptables-nft by what its tool shows, whose
// matches can be understood.
func (f *Firewall) readNFT(ctx context.Context, v *view, stamp uint64) error {
	t := tool{v6: v.family == "ip6"}
	v.tool = &t
	program, err := f.tool(t)
	if err != nil {
		return err
	}
	if program == nil {
		v.missing = notInstalled
		return nil
	}
	last, known := f.saved[t][v.name]
	if !known || last.stamp != stamp {
		shown, err := program.read(ctx, t, v.name)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			shown = nil // it refuses tables that hold rules of nft
		}
		last = saved{stamp, shown}
		if f.saved[t] == nil {
			f.saved[t] = map[string]saved{}
		}
		f.saved[t][v.name] = last
	}
	if last.table == nil {
		v.foreign = true
		return nil
	}
	v.table = last.table
	return nil
}

func (f *Firewall) tool(t tool) (*installed, error) {
	if program, known := f.tools[t]; known {
		return program, nil
	}
	program, err := install(t)
	if err == nil {
		f.tools[t] = program
	}
	return program, err
}

// settle brings our chain to where it is needed, and away from where nothing needs it.
// Without a Frontend it leaves everything as it is: flows may still be there.
func (f *Firewall) settle(ctx context.Context, p profile) (bool, error) {
	needed := p.packets(forward, f.config.Mark, f.to)
	possible := profile{everything: true}.packets(forward, f.config.Mark, f.to)
	changed := false
	var errs []error
	for _, v := range f.views {
		if ctx.Err() != nil {
			return changed, ctx.Err()
		}
		if !v.passable() {
			continue
		}
		o := newOpening(v.table, f.config.Mark)
		bare := o.without()
		var did bool
		var err error
		switch {
		case blocked(bare, needed):
			did, err = o.open(f.tools[*v.tool], needed)
		case !blocked(bare, possible):
			did, err = o.close(f.tools[*v.tool])
		}
		changed = changed || did
		if err != nil {
			errs = append(errs, err)
		}
	}
	return changed, errors.Join(errs...)
}

func (f *Firewall) analyse(p profile) []Finding {
	var out []Finding
	for _, v := range f.views {
		if v.missing != "" && v.tool.legacy && v.name == filterTable && (p.v4 && !v.tool.v6 || p.v6 && v.tool.v6) {
			out = append(out, Finding{Reason: ReasonNotOpened, Message: fmt.Sprintf(
				"this host has rules in %s, which %s: it cannot tell whether they drop flows to endpoints; if so, run: %[1]s -I %[4]s -m connmark --mark %#[3]x/%#[3]x -j ACCEPT",
				v.tool, shorten.To(v.missing, 200), f.config.Mark, forwardChain)})
		}
		out = append(out, v.findings(p, f.config.Mark, f.to)...)
	}
	return tidy(out)
}
