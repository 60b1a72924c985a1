package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// UnableError says that this node lacks something that the rules cannot do without: no
// right and no second try will help.
type UnableError struct {
	Feature string // what is missing
	Err     error  // what iptables said
}

func (e *UnableError) Error() string {
	return fmt.Sprintf("kernel %s has no %s: %v", kernelRelease(), e.Feature, e.Err)
}

func (e *UnableError) Unwrap() error { return e.Err }

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// feature is something that iptables and the kernel need to have, and a rule to try.
type feature struct{ name, table, rule string }

func features(c Config) []feature {
	return []feature{
		{"table nat (module iptable_nat, ip6table_nat or nft_chain_nat)", natTable, "-j RETURN"},
		{"table filter (module iptable_filter, ip6table_filter or nf_tables)", filterTable, "-j RETURN"},
		{"comments (xt_comment)", natTable, "-m comment --comment probe"},
		{"random draws (xt_statistic)", natTable, "-m statistic --mode random --probability 0.5"},
		{"conntrack marks (xt_connmark)", natTable, fmt.Sprintf("-m connmark --mark %#[1]x/%#[1]x -j CONNMARK --set-xmark %#[1]x/%#[1]x", c.Mark)},
		{"packet marks (xt_mark)", natTable, fmt.Sprintf("-m mark --mark %#[1]x/%#[1]x -j MARK --set-xmark %#[1]x/%#[1]x", c.PacketMark)},
		{"conntrack states (xt_conntrack)", natTable, "-m conntrack ! --ctstate DNAT"},
		{"masquerading (xt_MASQUERADE)", natTable, "-j MASQUERADE --random-fully"},
		{"destination translation (xt_nat)", natTable, "-p tcp -m tcp --dport 1 -j DNAT --to-destination :1"},
		{"refusal (ipt_REJECT, ip6t_REJECT)", filterTable, "-p tcp -j REJECT --reject-with tcp-reset"},
	}
}

// probe tries every feature in a chain that nothing leads to, and deletes it at once.
func (t *tools) probe(ctx context.Context, c Config) error {
	all := features(c)
	whole := t.try(ctx, all)
	if whole == nil || errors.Is(whole, errLocked) || ctx.Err() != nil {
		return whole
	}
	_, err := t.rules.ListChains(natTable) // the legacy restore does not say
	if errors.Is(whole, os.ErrPermission) || err != nil && forbidden(err.Error()) {
		return fmt.Errorf("%w: CAP_NET_ADMIN and CAP_NET_RAW in the user namespace that owns the network namespace are needed: %w", os.ErrPermission, whole)
	}
	for _, f := range all { // one at a time, to name the one
		if err := t.try(ctx, []feature{f}); err != nil {
			return &UnableError{f.name, err}
		}
	}
	return whole
}

func (t *tools) try(ctx context.Context, features []feature) error {
	var add, remove []section
	for _, table := range tableNames {
		s := section{table: table}
		for _, f := range features {
			if f.table == table {
				s.declare = []string{declare(probeChain)}
				s.lines = append(s.lines, "-A "+probeChain+" "+f.rule)
			}
		}
		if s.declare != nil {
			add = append(add, s)
			remove = append(remove, section{table, s.declare, []string{"-X " + probeChain}})
		}
	}
	return t.commit(ctx, append(add, remove...))
}

// hasIPv6 reports whether the kernel has IPv6 on at all.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
