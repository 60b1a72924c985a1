package iptables

import (
	"errors"
	"fmt"
	"math/bits"
)

// Variant says which of the two kernel interfaces iptables writes to. A node should
// have all its rules in one of them: with rules in both, both decide about each packet.
type Variant string

// The variants. Auto is whatever the node uses already, see detect.
const (
	Auto   Variant = "auto"
	Legacy Variant = "legacy" // xtables: iptables-legacy
	NFT    Variant = "nft"    // nf_tables: iptables-nft
)

// Config is what can be chosen about the rules of this package.
type Config struct {
	// Mark is the one bit of the conntrack mark that our flows carry. It must be
	// nobody else's, see nftables.Config.
	Mark uint32
	// PacketMark is the one bit of the packet mark by which rules of one chain tell
	// those of a later one what they decided about the first packet of a flow. It
	// must be nobody else's, neither in packet nor in conntrack marks that are copied
	// into them: kube-proxy uses 0x4000 and 0x8000, Calico 0xffff0000, Cilium 0xf00,
	// Istio 0x539, the AWS VPC CNI 0x80.
	PacketMark uint32
	// Variant is the one to use; Auto finds out.
	Variant Variant
	// NetNS is a file descriptor of the network namespace to work in; 0 is the
	// namespace of the calling thread. It stays the caller's, who keeps it open
	// until Close. Entering another namespace needs CAP_SYS_ADMIN.
	NetNS int
}

// DefaultConfig returns the Config that fits where nothing says otherwise.
func DefaultConfig() Config {
	return Config{Mark: 0x1000, PacketMark: 0x40, Variant: Auto}
}

// Validate reports everything that is wrong with the Config.
func (c Config) Validate() error {
	var errs []error
	if bits.OnesCount32(c.Mark) != 1 {
		errs = append(errs, fmt.Errorf("conntrack mark %#x: must be exactly one bit", c.Mark))
	}
	if bits.OnesCount32(c.PacketMark) != 1 || c.PacketMark == c.Mark {
		errs = append(errs, fmt.Errorf("packet mark %#x: must be exactly one bit, and another one than the conntrack mark's", c.PacketMark))
	}
	if c.Variant != Auto && c.Variant != Legacy && c.Variant != NFT {
		errs = append(errs, fmt.Errorf("variant %q: must be %s, %s or %s", c.Variant, Auto, Legacy, NFT))
	}
	if c.NetNS < 0 {
		errs = append(errs, fmt.Errorf("network namespace: bad file descriptor %d", c.NetNS))
	}
	return errors.Join(errs...)
}
