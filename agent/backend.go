package agent

import (
	"fmt"

	"github.com/portway-dev/portway/rules/nftables"
)

var _ programmer = (*nftables.Programmer)(nil)

// backend is a programmer that holds resources of this process; closing it
// leaves the rules in the kernel.
type backend interface {
	programmer
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

// backendName is what reports call the backend of a name.
func backendName(name string) string {
	if name == backendAuto {
		return backendNFTables
	}
	return name
}
