package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/iptables"
	"github.com/portway-dev/portway/rules/nftables"
)

var (
	_ programmer = (*nftables.Programmer)(nil)
	_ programmer = (*iptables.Programmer)(nil)
)

// backend is a programmer that holds resources of this process; closing it
// leaves the rules in the kernel.
type backend interface {
	programmer
	// Name is what reports call it.
	Name() string
	// Limitations says what users notice of what the kernel lacks or the backend cannot
	// do as it should. Like Program it is for the loop.
	Limitations() []string
	Close() error
}

// openBackend returns the backend of a name. It changes nothing in the kernel. auto is
// nftables, which does everything and is cheap at any size, and iptables where the
// kernel has no nf_tables for us; why is logged.
func openBackend(ctx context.Context, name string, mark uint32) (backend, error) {
	switch name {
	case backendNFTables:
		return openNFTables(mark)
	case backendIPTables:
		return openIPTables(mark)
	case backendAuto:
	default:
		return nil, fmt.Errorf("unknown backend %q", name)
	}
	opened, err := openNFTables(mark)
	var lacking *nftables.UnableError
	if !errors.As(err, &lacking) {
		if err == nil {
			klog.FromContext(ctx).Info("This node gets nftables rules", "because", "auto prefers them: they do everything and are cheap at any size")
		}
		return opened, err
	}
	second, secondErr := openIPTables(mark)
	if secondErr != nil {
		return nil, errors.Join(err, secondErr)
	}
	klog.FromContext(ctx).Info("This node gets iptables rules", "because", err)
	return second, nil
}

func openNFTables(mark uint32) (backend, error) {
	config := nftables.DefaultConfig()
	config.Mark = mark
	p, err := nftables.New(config)
	if err != nil {
		return nil, err
	}
	return &sole{chosen: p, name: backendNFTables, removeOther: func(ctx context.Context) error {
		return iptables.Remove(ctx, iptables.DefaultConfig())
	}}, nil
}

func openIPTables(mark uint32) (backend, error) {
	config := iptables.DefaultConfig()
	config.Mark = mark
	p, err := iptables.New(config)
	if err != nil {
		return nil, err
	}
	return &sole{chosen: p, name: backendIPTables, removeOther: func(ctx context.Context) error {
		other, err := nftables.New(nftables.DefaultConfig())
		var lacking *nftables.UnableError
		if errors.As(err, &lacking) {
			return nil // and so nothing of it can be there
		}
		if err != nil {
			return err
		}
		return errors.Join(other.Cleanup(ctx), other.Close())
	}}, nil
}

// chosen is what the packages of backends have in common.
type chosen interface {
	programmer
	Limitations() []string
	Close() error
}

// sole is the one backend of a node. What another one programmed before goes once this
// one has everything in the kernel, and not earlier: in between both lead to the same
// endpoints.
type sole struct {
	mu          sync.Mutex // one call of chosen at a time
	chosen                 // guarded by mu: Program and Disturbed
	name        string
	removeOther func(context.Context) error
	failures    int
	alone       bool
}

// maxRemovals is how often the removal of what another backend left is tried: it runs
// programs, beside which no endpoint changes.
const maxRemovals = 3

// Name implements backend.
func (s *sole) Name() string { return s.name }

// Disturbed implements programmer. While something is being programmed it is not for a look
// to tell.
func (s *sole) Disturbed() bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	return s.chosen.Disturbed()
}

// Program implements programmer.
func (s *sole) Program(ctx context.Context, state *rules.State) (rules.Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	results, err := s.chosen.Program(ctx, state)
	if err != nil || s.alone || state.Partial() {
		return results, err
	}
	if err := s.removeOther(ctx); err != nil {
		if s.failures++; s.failures < maxRemovals {
			return results, nil
		}
		klog.FromContext(ctx).Info("What the other backend may have left could not be removed; it is tried again with the next start, and by --cleanup", "err", err)
	}
	s.alone = true
	return results, nil
}

// Cleanup implements programmer, for both backends.
func (s *sole) Cleanup(ctx context.Context) error {
	return errors.Join(s.chosen.Cleanup(ctx), s.removeOther(ctx))
}

// openFirewall returns what opens the firewalls of others. It changes nothing.
func openFirewall(mark uint32) (opener, error) {
	return firewall.New(firewall.Config{Table: nftables.DefaultConfig().Table, Mark: mark})
}

// isUnable reports whether no right and no second try will help.
func isUnable(err error) bool {
	var nft *nftables.UnableError
	var ipt *iptables.UnableError
	return errors.As(err, &nft) || errors.As(err, &ipt)
}

// unable is a backend of a node whose kernel cannot do what is needed. It says so of
// every Gateway, so that people find the node and the reason in their statuses.
type unable struct{ err error }

var _ backend = unable{}

func (u unable) Program(_ context.Context, state *rules.State) (rules.Results, error) {
	results := rules.Results{Errors: map[string]error{}}
	for gateway := range state.Digests() {
		results.Errors[gateway] = u.err
	}
	return results, u.err
}

func (unable) Cleanup(context.Context) error { return nil } // nothing can be there
func (unable) Disturbed() bool               { return false }
func (unable) Name() string                  { return "none" }
func (unable) Limitations() []string         { return nil }
func (unable) Close() error                  { return nil }
