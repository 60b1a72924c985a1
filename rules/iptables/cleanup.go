package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/portway-dev/portway/internal/netfilter"
)

// Remove removes our chains and what leads to them, of both variants and both families,
// and nothing else. It succeeds where there is none, and where there is no iptables. An
// empty table that was made for us stays, as after every use of iptables, and a table
// that somebody made or changed with nft, so that iptables refuses it, is left alone. It is for nodes
// that change to another backend, once that has programmed.
func Remove(ctx context.Context, c Config) error {
	err := inside(c.NetNS, func() error { return cleanup(ctx, new(Stats), Legacy, NFT) })
	if err != nil {
		return fmt.Errorf("iptables: remove our chains: %w", err)
	}
	return nil
}

// Cleanup does what Remove does.
func (p *Programmer) Cleanup(ctx context.Context) error {
	if err := Remove(ctx, p.config); err != nil {
		return err
	}
	p.state, p.committed, p.swept = nil, make(map[string]string), false
	clear(p.pending)
	for _, k := range p.families {
		k.last, k.held, k.unknown, k.programs = nil, nil, nil, nil
	}
	return nil
}

// sweepOther removes what an agent that used the other variant has left.
func (p *Programmer) sweepOther(ctx context.Context) error {
	other := NFT
	if p.variant == NFT {
		other = Legacy
	}
	if err := cleanup(ctx, &p.stats, other); err != nil {
		return fmt.Errorf("remove what variant %s has left: %w", other, err)
	}
	return nil
}

func cleanup(ctx context.Context, stats *Stats, variants ...Variant) error {
	var errs []error
	for _, v := range variants {
		for _, ipv6 := range []bool{false, true} {
			tables, err := netfilter.XTables(ipv6)
			if v == Legacy && err == nil && !slices.Contains(tables, natTable) && !slices.Contains(tables, filterTable) {
				continue // to look would make them
			}
			t, err := findTools(v, ipv6, stats)
			if err != nil {
				continue // nobody can have made anything
			}
			if err := t.cleanup(ctx); !errors.Is(err, errIncompatible) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (t *tools) cleanup(ctx context.Context) error {
	present, err := t.read(ctx)
	if err != nil {
		return err
	}
	return t.commit(ctx, remains(present))
}
