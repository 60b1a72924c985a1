package iptables

import (
	"hash/maphash"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netfilter"
)

// print is what a look at a family costs next to nothing to see.
type print struct {
	// all differs when anybody changed rules: the generation of nf_tables; of xtables, which
	// have none, how many entries there are and where the built-in chains begin and end.
	all uint64
	// ours differs when chains of ours, or those that lead there, were made anew or have
	// another number of rules. That is what a flush or a restore does to them.
	ours uint64
}

// Disturbed reports, by a look that runs no program, whether the kernel may hold something
// else than the last Program made of it, so that another one is due: because our chains or
// the built-in ones have not the number of rules that they had when a Program last found
// nothing to do. Whether that was ourselves or somebody else only a Program can tell; a
// rule replaced by another one is for it to notice, too. Where the last one failed nothing
// is known, and it says no.
//
// What it costs is in the package's documentation. To be used by the goroutine that calls
// Program.
func (p *Programmer) Disturbed() bool {
	disturbed := false
	err := inside(p.config.NetNS, func() error {
		for _, k := range p.families {
			moved, err := k.moved()
			if err != nil {
				return err
			}
			disturbed = disturbed || moved
		}
		return nil
	})
	return disturbed || err != nil // Program says what is wrong
}

func (k *kernel) moved() (bool, error) {
	if k.last == nil {
		return false, nil
	}
	all, err := k.printOfAll()
	if err != nil || all == k.print.all {
		return false, err
	}
	ours, err := k.printOfOurs()
	if err != nil || ours != k.print.ours {
		return true, err
	}
	k.print.all = all
	return false, nil
}

// look takes the print. What others do between its halves is in the second one only, and
// seen by the next look. One that cannot be taken is like no other.
func (t *tools) look() print {
	all, err := t.printOfAll()
	if err != nil {
		return print{}
	}
	ours, err := t.printOfOurs()
	if err != nil {
		return print{}
	}
	return print{all, ours}
}

var printSeed = maphash.MakeSeed()

func (t *tools) printOfAll() (uint64, error) {
	if t.variant == NFT {
		conn, err := netfilter.Dial()
		if conn == nil {
			return 0, err
		}
		defer func() { _ = conn.Close() }() // all is read
		generation, err := conn.Generation()
		return uint64(generation), err
	}
	var sum maphash.Hash
	sum.SetSeed(printSeed)
	err := t.eachTable(netfilter.XTableInfo, func(_ string, x *netfilter.XTable) error {
		_, err := sum.Write(x.Info)
		return err
	})
	return sum.Sum64(), err
}

func (t *tools) printOfOurs() (uint64, error) {
	var sum maphash.Hash
	sum.SetSeed(printSeed)
	note := func(table, chain string, numbers ...uint64) {
		if leadsOrOurs(table, chain) {
			maphash.WriteComparable(&sum, place{table, chain})
			for _, n := range numbers {
				maphash.WriteComparable(&sum, n)
			}
		}
	}
	each := t.eachXChain
	if t.variant == NFT {
		each = t.eachNFTChain
	}
	err := each(note)
	return sum.Sum64(), err
}

// eachXChain hands over the chains of our tables of xtables, with the number of rules.
func (t *tools) eachXChain(note func(table, chain string, numbers ...uint64)) error {
	return t.eachTable(netfilter.ReadXTable, func(table string, x *netfilter.XTable) error {
		for c, err := range x.Chains() {
			if err != nil {
				return err
			}
			note(table, c.Name, uint64(c.Rules))
		}
		return nil
	})
}

// eachNFTChain hands over the chains of our family in nf_tables, with the number that the
// kernel gave each when it was made, and how many rules are in it and lead to it.
func (t *tools) eachNFTChain(note func(table, chain string, numbers ...uint64)) error {
	conn, err := netfilter.Dial()
	if conn == nil {
		return err
	}
	defer func() { _ = conn.Close() }() // all is read
	family := byte(unix.NFPROTO_IPV4)
	if t.ipv6 {
		family = unix.NFPROTO_IPV6
	}
	chains, err := conn.Ask(unix.NFT_MSG_GETCHAIN, family, netlink.Dump)
	for _, c := range chains {
		note(netfilter.Text(c.Attrs.Get(unix.NFTA_CHAIN_TABLE)), netfilter.Text(c.Attrs.Get(unix.NFTA_CHAIN_NAME)),
			netfilter.Number(c.Attrs.Get(unix.NFTA_CHAIN_HANDLE)), netfilter.Number(c.Attrs.Get(unix.NFTA_CHAIN_USE)))
	}
	return err
}

// eachTable hands over our tables of xtables, those that exist.
func (t *tools) eachTable(read func(ipv6 bool, name string) (*netfilter.XTable, error), each func(table string, x *netfilter.XTable) error) error {
	names, err := netfilter.XTables(t.ipv6)
	if err != nil {
		return err
	}
	for _, table := range tableNames {
		if !slices.Contains(names, table) {
			continue
		}
		x, err := read(t.ipv6, table)
		if err != nil {
			return err
		}
		if err := each(table, x); err != nil {
			return err
		}
	}
	return nil
}

// leadsOrOurs reports whether a chain is ours or one that has a jump to ours; xtables do
// not name the built-in ones.
func leadsOrOurs(table, chain string) bool {
	return chain == "" || ours(chain) || slices.ContainsFunc(jumps[:], func(j jump) bool { return j.table == table && j.from == chain })
}
