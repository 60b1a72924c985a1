package members

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
	"k8s.io/klog/v2"
)

// DefaultPort is what the nodes talk on, TCP and UDP.
const DefaultPort = 7946

// Config says who this member is.
type Config struct {
	// Node is the member's name, unique in the cluster.
	Node string
	// Bind is this node's address as others reach it, and the port, which is the
	// same on all nodes.
	Bind netip.AddrPort
	// KeyFile holds what only members know, one key per line. The first one is
	// used, all of them are understood.
	KeyFile string
	Logger  klog.Logger
	// ForgetAfter is how long a record outlives its writer: its MACs are no strangers' while
	// it may come back. 0: an hour.
	ForgetAfter time.Duration

	keyPoll time.Duration // 0: every 10 s
}

// Validate reports everything that is wrong with the Config.
func (c *Config) Validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("the name of this node is missing"))
	}
	if !c.Bind.Addr().IsValid() || c.Bind.Addr().IsUnspecified() || c.Bind.Port() == 0 {
		errs = append(errs, fmt.Errorf("bind address %s: must be an address of this node, with a port", c.Bind))
	}
	if c.KeyFile == "" {
		errs = append(errs, errors.New("the file with the members' key is missing: without one, anybody on the network could take addresses away"))
	}
	return errors.Join(errs...)
}

// The times by which a member that is gone is noticed.
//
// Every probeInterval a member asks another one, so that of three nodes each is asked at
// least every second interval. Who does not answer within the interval, not through
// others nor by TCP either, is suspect: 0.2 to 0.6 s after it is gone. A suspect has
// suspicionMult × max(1, log10 N) × probeInterval to object when another
// member confirms the suspicion, or there is none, and suspicionMaxMult times as long when
// nobody does: 0.6 to 1.2 s for up to 10 nodes, 1.2 to 2.4 s for 100, where
// there is always somebody to confirm it. So it is out within 0.8 to 1.8 s, and who is only
// slow has 0.8 s to say so.
const (
	probeInterval     = 200 * time.Millisecond
	probeTimeout      = 75 * time.Millisecond // twice fits: who asks for others has as long
	suspicionMult     = 3
	suspicionMaxMult  = 2
	awarenessMaxMult  = 2 // of probeInterval, for a member that finds itself slow
	gossipInterval    = 100 * time.Millisecond
	retransmitMult    = 4
	pushPullInterval  = 15 * time.Second
	streamTimeout     = 2 * time.Second
	reclaimAfter      = 10 * time.Second // the name of a dead member, by another address
	packetSize        = 1400
	broadcastOverhead = 100 // of a packet: encryption, label, compound message
	// maxBroadcast is what is gossiped; what is longer goes to each member by TCP.
	maxBroadcast = packetSize - broadcastOverhead
)

// label keeps others who use the same library and port apart.
const label = "portway-announce-1"

func (c *Config) memberlist(ring *memberlist.Keyring) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label, m.Keyring = c.Node, label, ring
	m.BindAddr, m.BindPort = c.Bind.Addr().String(), int(c.Bind.Port())
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	m.ProbeInterval, m.ProbeTimeout = probeInterval, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicionMult, suspicionMaxMult
	m.AwarenessMaxMultiplier = awarenessMaxMult
	m.GossipInterval, m.RetransmitMult = gossipInterval, retransmitMult
	m.PushPullInterval, m.TCPTimeout = pushPullInterval, streamTimeout
	m.DeadNodeReclaimTime = reclaimAfter
	m.UDPBufferSize = packetSize
	m.EnableCompression = false // records are compact already
	m.DNSConfigPath = ""        // addresses only
	return m
}
