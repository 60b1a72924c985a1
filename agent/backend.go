package agent

import (
	"context"
	"fmt"

	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

var _ programmer = (*nftables.Programmer)(nil)

// backend is a programmer that holds resources of this process; closing it
// leaves the rules in the kernel.
type backend interface {
	programmer
	// Limitations says what users notice of features that this kernel lacks and that
	// the rules can do without.
	Limitations() []string
	Close() error
}

// openBackend returns the backend of a name. It changes nothing in the kernel.
func openBackend(name string, mark uint32) (backend, error) {
	switch name {
	case backendAuto, backendNFTables:
		config := nftables.DefaultConfig()
		config.Mark = mark
		return nftables.New(config)
	default:
		return nil, fmt.Errorf("unknown backend %q", name)
	}
}

// openFirewall returns what opens the firewalls of others. It changes nothing.
func openFirewall(mark uint32) (opener, error) {
	return firewall.New(firewall.Config{Table: nftables.DefaultConfig().Table, Mark: mark})
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
func (unable) Limitations() []string         { return nil }
func (unable) Close() error                  { return nil }

// backendName is what reports call the backend of a name.
func backendName(name string) string {
	if name == backendAuto {
		return backendNFTables
	}
	return name
}
