package nftables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// feature is something of the kernel that the rules need.
type feature struct {
	name, cure string
	add        func(*nftables.Conn, *nftables.Table) error
}

// Probe reports, in one sentence, what the kernel or our rights lack. It makes a
// table, and deletes it, in one batch: nobody ever sees it. The table has a name
// that nobody else has.
func Probe(c Config) error {
	c.Table = fmt.Sprintf("%s-probe-%016x", c.Table, rand.Uint64())
	features := features(c)
	var all []feature
	if try(c, append(all, features...)) == nil {
		return nil
	}
	for i, f := range features { // one at a time, to name the one
		if err := try(c, features[i:i+1]); err != nil {
			return probeError(f, err)
		}
	}
	return nil
}

func probeError(f feature, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("nftables: not permitted to change rules: CAP_NET_ADMIN in the user namespace that owns the network namespace is needed: %w", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("nftables: this kernel has no nf_tables (CONFIG_NF_TABLES, module nf_tables): %w", err)
	}
	return fmt.Errorf("nftables: this kernel has no %s (%s): %w", f.name, f.cure, err)
}

// try makes the table of the Config with the features and deletes it. Where there
// is one of its name it fails with EEXIST and touches nothing.
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
	conn.DelTable(table)
	return errors.Join(conn.Flush(), conn.CloseLasting())
}

func features(c Config) []feature {
	l := newLayout(c)
	rules := func(exprs ...expr.Any) func(*nftables.Conn, *nftables.Table) error {
		return func(conn *nftables.Conn, table *nftables.Table) error {
			ch := conn.AddChain(&nftables.Chain{Name: "probe", Table: table})
			conn.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: exprs})
			return nil
		}
	}
	base := func(conn *nftables.Conn, table *nftables.Table) error {
		for _, ch := range l.chains {
			if ch.Type != "" {
				conn.AddChain(ch.Chain)
			}
		}
		return nil
	}
	sets := func(conn *nftables.Conn, table *nftables.Table) error {
		for _, set := range l.sets {
			if err := conn.AddSet(set, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return []feature{
		{"nf_tables tables of family inet", "CONFIG_NF_TABLES_INET, Linux ≥ 3.14", rules()},
		{"nat chains of family inet", "CONFIG_NFT_NAT, module nft_chain_nat, Linux ≥ 5.2", base},
		{"concatenated maps and interval sets", "Linux ≥ 5.6", sets},
		{"random numbers in rules", "CONFIG_NFT_NUMGEN, module nft_numgen", rules(ipv4.random(2)...)},
		{"hashing in rules", "CONFIG_NFT_HASH, module nft_hash", rules(ipv4.flowHash(2)...)},
		{"conntrack in rules", "CONFIG_NFT_CT, module nft_ct", rules(setMark(c.Mark)...)},
		{"masquerading", "CONFIG_NFT_MASQ, module nft_masq", rules(&expr.Masq{FullyRandom: true})},
		{"rejecting", "CONFIG_NFT_REJECT_INET, module nft_reject_inet", rules(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})},
	}
}
