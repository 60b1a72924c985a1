package layer2

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config says how to answer. The zero value is not useful, start from DefaultConfig.
type Config struct {
	// NodeAddresses are the node's own: without patterns, addresses of no network of
	// this node are answered where these are.
	NodeAddresses []netip.Addr

	// Probes are sent before the first announcement of an address that nobody in
	// the cluster has had, ProbeInterval apart; after the last one ProbeWait
	// passes. Hosts that boot are to take 5 to 8 s for it, on links that may only
	// just have come up (RFC 5227, 1.1); our links have been up, and addresses are
	// to be served, so it is half a second.
	Probes                   int
	ProbeInterval, ProbeWait time.Duration
	// Announcements say when the address is announced again, each after the one before.
	// The first interval leads from the request form of ARP to the reply form. RFC
	// 5227, 2.3, and RFC 4861, 7.2.6, ask for two and up to three, 2 s and 1 s apart.
	Announcements []time.Duration
	// DefendInterval: a stranger who claims an address once is told that it is ours, and
	// asked again; who claims it twice within the interval gets it (RFC 5227, 2.4 (b)).
	DefendInterval time.Duration
	// Recheck is how often an address that a stranger has is looked at again, and Verify
	// how often one of ours is, as a stranger need not say anything. Both vary by a
	// quarter, so that the probes of many addresses spread.
	Recheck, Verify time.Duration
	// Rate is how many frames per second are sent on our own account, and Burst how
	// many of them at once. 4 000 frames of 64 bytes are 2 Mbit/s of broadcast: a small
	// part of what storm control of switches lets through.
	Rate, Burst int
	// Settle is how long changes of interfaces are waited for before they are looked at.
	Settle time.Duration
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Probes: 3, ProbeInterval: 150 * time.Millisecond, ProbeWait: 200 * time.Millisecond,
		Announcements:  []time.Duration{100 * time.Millisecond, 900 * time.Millisecond, 2 * time.Second},
		DefendInterval: 10 * time.Second,
		Recheck:        30 * time.Second,
		Verify:         5 * time.Minute,
		Rate:           4000, Burst: 200,
		Settle: 20 * time.Millisecond,
	}
}

// Validate reports everything that is wrong with the Config.
func (c *Config) Validate() error {
	var errs []error
	for _, v := range []struct {
		name  string
		value time.Duration
	}{
		{"ProbeInterval", c.ProbeInterval},
		{"ProbeWait", c.ProbeWait},
		{"DefendInterval", c.DefendInterval},
		{"Recheck", c.Recheck},
		{"Verify", c.Verify},
	} {
		if v.value <= 0 {
			errs = append(errs, fmt.Errorf("%s is %s: must be positive", v.name, v.value))
		}
	}
	if c.Probes < 1 || c.Rate < 1 || c.Burst < 1 {
		errs = append(errs, errors.New("one of Probes, Rate and Burst is 0: they must be at least 1"))
	}
	return errors.Join(errs...)
}
