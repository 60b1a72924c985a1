package nftables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// UnableError says that this kernel lacks something that the rules cannot do without:
// no right and no second try will help.
type UnableError struct {
	Feature string // what is missing
	Cure    string // the kernel's option, module or version that has it
	Kernel  string // the release, as "uname -r" prints it
	Err     error  // the kernel's answer
}

func (e *UnableError) Error() string {
	return fmt.Sprintf("nftables: kernel %s has no %s (%s): %v", e.Kernel, e.Feature, e.Cure, e.Err)
}

func (e *UnableError) Unwrap() error { return e.Err }

// feature is something of the kernel that the rules need, tried where they use it:
// the kernel checks for the hook what a base chain leads to, and nothing else.
type feature struct {
	name, cure string
	// without is what users notice where it is missing; empty where nothing works then.
	without string
	lost    func(*ability) // what the rules are to do without
	add     func(*nftables.Conn, *nftables.Table) error
}

// prober asks the kernel for features, all at once.
type prober func(Config, []feature) error

// Probe reports, in one sentence, what the kernel or our rights lack: an UnableError, or
// os.ErrPermission. It makes a table, of a name that nobody else has and with rules that
// no packet matches, and deletes it at once, with those that a probe left which was killed.
func Probe(c Config) error {
	_, err := probe(c, try)
	return err
}

// probe returns the features that are missing and that the rules can do without.
func probe(c Config, try prober) (missing []feature, err error) {
	_ = sweepProbes(c) // what is left does no harm, and what is wrong shows now or at Cleanup
	c.Table = fmt.Sprintf("%s%016x", probePrefix(c), rand.Uint64())
	all := features(c)
	if try(c, all) == nil {
		return nil, nil
	}
	for i, f := range all { // one at a time, to name the one
		err := try(c, all[i:i+1])
		switch {
		case err == nil:
		case f.without != "" && rejected(err) && !errors.Is(err, os.ErrPermission):
			missing = append(missing, f)
		default:
			return nil, probeError(f, err)
		}
	}
	return missing, nil
}

func probePrefix(c Config) string { return c.Table + "-probe-" }

// sweepProbes deletes the tables of probes that were killed between their two commits.
// One whose probe is still at work loses nothing: what it asked is answered by then.
func sweepProbes(c Config) error {
	q, err := openQuery(c)
	if err != nil {
		return err
	}
	names, err := q.tables()
	errs := []error{err, q.Close()}
	ours := regexp.MustCompile("^" + regexp.QuoteMeta(probePrefix(c)) + "[0-9a-f]{16}$")
	for _, name := range names {
		if ours.MatchString(name) {
			errs = append(errs, deleteTable(c, name))
		}
	}
	return errors.Join(errs...)
}

func deleteTable(c Config, name string) error {
	conn, err := openConn(c)
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err = conn.Flush(); errors.Is(err, unix.ENOENT) {
		err = nil // somebody else was quicker
	}
	return errors.Join(err, conn.CloseLasting())
}

func probeError(f feature, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("nftables: not permitted to change rules: CAP_NET_ADMIN in the user namespace that owns the network namespace is needed: %w", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return &UnableError{"nf_tables", "CONFIG_NF_TABLES, module nf_tables", kernelRelease(), err}
	case rejected(err):
		return &UnableError{f.name, f.cure, kernelRelease(), err}
	}
	return fmt.Errorf("nftables: probe the kernel for %s: %w", f.name, err)
}

// limitations says what users notice of features that are missing, and the cure.
func limitations(missing []feature) []string {
	var out []string
	for _, f := range missing {
		out = append(out, fmt.Sprintf("kernel %s has no %s: %s; cure: %s", kernelRelease(), f.name, f.without, f.cure))
	}
	return out
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// try makes the table of the Config with the features and deletes it. Where there is one
// of its name it fails with EEXIST and touches nothing. Two commits, because what a hook
// allows is checked at the end of a batch, and of tables that are left by then.
func try(c Config, features []feature) error {
	conn, err := openConn(c)
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: c.Table, Family: nftables.TableFamilyINet}
	conn.CreateTable(table)
	for _, f := range features {
		if err := f.add(conn.Conn, table); err != nil {
			return errors.Join(err, conn.CloseLasting())
		}
	}
	if err := conn.Flush(); err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	return errors.Join(conn.CloseLasting(), deleteTable(c, c.Table))
}

func features(c Config) []feature {
	l := newLayout(c, everything)
	rule := func(exprs []expr.Any, chains ...string) func(*nftables.Conn, *nftables.Table) error {
		return inChains(l, exprs, chains...)
	}
	sets := func(conn *nftables.Conn, table *nftables.Table) error {
		for _, set := range l.sets {
			of := *set
			of.Table = table
			if err := conn.AddSet(&of, nil); err != nil {
				return err
			}
		}
		return nil
	}
	nothing := func(*nftables.Conn, *nftables.Table) error { return nil }
	accept := []expr.Any{verdict(expr.VerdictAccept, "")}
	translate := []expr.Any{
		&expr.Immediate{Register: address, Data: []byte{127, 0, 0, 1}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: address},
	}
	return []feature{
		{name: "nf_tables tables of family inet", cure: "CONFIG_NF_TABLES_INET, Linux ≥ 3.14", add: nothing},
		{
			name: "nat chains of family inet", cure: "CONFIG_NFT_NAT, module nft_chain_nat, Linux ≥ 5.2",
			add: rule(accept, preroutingChain, outputChain, postroutingChain),
		},
		{name: "concatenated maps and interval sets", cure: "Linux ≥ 5.6", add: sets},
		{
			name: "random numbers in rules", cure: "CONFIG_NFT_NUMGEN, module nft_numgen",
			add: rule(ipv4.random(2), preroutingChain, outputChain),
		},
		{
			name: "hashing in rules", cure: "CONFIG_NFT_HASH, module nft_hash",
			add: rule(ipv4.flowHash(2), preroutingChain, outputChain),
		},
		{
			name: "conntrack in rules", cure: "CONFIG_NFT_CT, module nft_ct",
			add: rule(setMark(c.Mark), preroutingChain, outputChain),
		},
		{
			name: "destination translation in rules", cure: "CONFIG_NFT_NAT, module nft_nat",
			add: rule(translate, preroutingChain, outputChain),
		},
		{
			name: "masquerading", cure: "CONFIG_NFT_MASQ, module nft_masq",
			add: rule([]expr.Any{&expr.Masq{FullyRandom: true}}, postroutingChain),
		},
		{
			name: "conntrack states in filter chains", cure: "CONFIG_NFT_CT, module nft_ct",
			add: rule(append(with(expr.CtKeySTATE, stateInvalid), accept...), filterPreroutingChain, filterOutputChain),
		},
		{
			name: "reject in nat prerouting", cure: "Linux ≥ 5.9 with CONFIG_NFT_REJECT_INET, module nft_reject_inet",
			without: "TCP clients that are to be refused get no answer and time out, but where only a share is refused each SYN they send again is drawn anew, so that of k SYNs all are refused with about share^k",
			lost:    func(a *ability) { a.reject = false },
			add:     rule(resetTCP(), preroutingChain, outputChain),
		},
		{
			name: "redirection in rules", cure: "CONFIG_NFT_REDIR, module nft_redir",
			without: "an address from a pool does not answer pings",
			lost:    func(a *ability) { a.redirect = false },
			add:     rule([]expr.Any{&expr.Redir{}}, preroutingChain, outputChain),
		},
		{
			name: "route lookups in rules", cure: "CONFIG_NFT_FIB_INET, module nft_fib_inet",
			without: "where an interface of this node has an address from a pool, what listens there is not reached",
			lost:    func(a *ability) { a.local = false },
			add:     rule(isLocal(), preroutingChain, outputChain, filterPreroutingChain, filterOutputChain),
		},
	}
}

// inChains adds the base chains of these names, each with one rule that no packet
// matches: none has protocol 255, which is reserved (IANA protocol numbers).
func inChains(l *layout, exprs []expr.Any, names ...string) func(*nftables.Conn, *nftables.Table) error {
	exprs = append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_RAW}},
	}, exprs...)
	return func(conn *nftables.Conn, table *nftables.Table) error {
		for _, ch := range l.chains {
			if slices.Contains(names, ch.Name) {
				base := *ch.Chain
				base.Table = table
				conn.AddRule(&nftables.Rule{Table: table, Chain: conn.AddChain(&base), Exprs: exprs})
			}
		}
		return nil
	}
}
