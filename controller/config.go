package controller

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/topology"
)

// Config says how the controller works. The zero value is not useful, start from
// DefaultConfig.
type Config struct {
	Topology topology.Config
	// NodeAddressType is which addresses of a node Gateways get: InternalIP or
	// ExternalIP.
	NodeAddressType corev1.NodeAddressType
	// AgentTimeout is after how long without a renewal of its Lease an agent is
	// silent.
	AgentTimeout time.Duration
	// JoinGrace is how long a node that joins may take for its first commit before
	// Gateways wait for it.
	JoinGrace time.Duration
	// LagTolerance is how long Programmed may stay True after an edit until the
	// nodes have proven it.
	LagTolerance time.Duration
	// Workers is how many statuses are written at a time.
	Workers int
	Loop    syncloop.Config
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	loop := syncloop.DefaultConfig()
	// One pass looks at every object, many reports come in at once after an edit, and
	// each write of ours comes back as a change.
	loop.MinInterval = 200 * time.Millisecond
	return Config{
		Topology:        topology.DefaultConfig(),
		NodeAddressType: corev1.NodeInternalIP,
		AgentTimeout:    40 * time.Second,
		JoinGrace:       30 * time.Second,
		LagTolerance:    time.Second,
		Workers:         16,
		Loop:            loop,
	}
}

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	if c.NodeAddressType != corev1.NodeInternalIP && c.NodeAddressType != corev1.NodeExternalIP {
		errs = append(errs, fmt.Errorf("node address type %q: must be %s or %s", c.NodeAddressType, corev1.NodeInternalIP, corev1.NodeExternalIP))
	}
	if c.AgentTimeout <= 0 {
		errs = append(errs, fmt.Errorf("agent timeout %s: must be positive", c.AgentTimeout))
	}
	if c.JoinGrace < 0 || c.LagTolerance < 0 {
		errs = append(errs, errors.New("join grace and lag tolerance must not be negative"))
	}
	if c.Workers < 2 {
		errs = append(errs, fmt.Errorf("%d workers: at least 2 are needed, one for Gateways and one for routes", c.Workers))
	}
	return errors.Join(errs...)
}
