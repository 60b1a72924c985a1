package nftables

import (
	"errors"
	"fmt"
	"math/bits"
	"regexp"
)

// Config is what can be chosen about the kernel objects of this package.
type Config struct {
	// Table is the name of the table, of family inet, that holds everything.
	Table string
	// Mark is the one bit of the conntrack mark that our flows carry. It must be
	// nobody else's: kube-proxy uses 0x4000 and 0x8000, Calico 0xffff0000,
	// Cilium 0xf00, Istio 0x539.
	Mark uint32
	// NetNS is a file descriptor of the network namespace to work in; 0 is the
	// namespace of the calling thread. It stays the caller's, who keeps it open
	// until Close. Entering another namespace needs CAP_SYS_ADMIN.
	NetNS int
	// SocketBuffer is the size in bytes asked for both buffers of the netlink
	// socket. Without CAP_NET_ADMIN in the initial user namespace the kernel caps
	// it at net.core.{w,r}mem_max, and batches become smaller.
	SocketBuffer int
}

// DefaultConfig returns the Config that fits where nothing says otherwise.
func DefaultConfig() Config {
	return Config{Table: "portway", Mark: 0x1000, SocketBuffer: 16 << 20}
}

// tableName is what nft accepts without quotes (its scanner's "string"); the
// length is NFT_TABLE_MAXNAMELEN less what a probe adds.
var tableName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,99}$`)

// Validate reports everything that is wrong with the Config.
func (c Config) Validate() error {
	var errs []error
	if !tableName.MatchString(c.Table) {
		errs = append(errs, fmt.Errorf("table name %q: must start with a letter and hold only letters, digits, - and _, at most 100", c.Table))
	}
	if bits.OnesCount32(c.Mark) != 1 {
		errs = append(errs, fmt.Errorf("conntrack mark %#x: must be exactly one bit", c.Mark))
	}
	if c.NetNS < 0 {
		errs = append(errs, fmt.Errorf("network namespace: bad file descriptor %d", c.NetNS))
	}
	if c.SocketBuffer < minSocketBuffer {
		errs = append(errs, fmt.Errorf("socket buffer %d: at least %d bytes", c.SocketBuffer, minSocketBuffer))
	}
	return errors.Join(errs...)
}
