package agent

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/flowtable"
	"github.com/portway-dev/portway/internal/ports"
	"github.com/portway-dev/portway/topology"
)

// The values of --backend.
const (
	backendAuto     = "auto"
	backendNFTables = "nftables"
	backendIPTables = "iptables"
)

// Options are what the operator chose.
type Options struct {
	// Manifests to serve; none: a cluster is served.
	Manifests []string
	// Kubeconfig says how to reach the API server; empty: as the pod this runs in.
	Kubeconfig string
	// Namespace holds the heartbeat Lease and the Services of Gateways in mode LoadBalancer.
	Namespace          string
	LeaseRenewInterval time.Duration
	// HealthBindAddress is where health and metrics are served; empty: see
	// healthAddress.
	HealthBindAddress string
	// Version of this program, for its report.
	Version string

	NodeName      string
	NodeAddresses []string
	NodeZone      string
	EndTCPFlows   bool
	StatusOut     string
	PrintStatus   bool
	Backend       string
	Cleanup       bool
	CleanupAfter  string
	SetSysctls    bool
	NodePorts     ports.Ranges
	CTMark        ctMark
	// Flowtable are interfaces, or patterns of them, between which established flows of ours
	// are forwarded past all chains; none: they are not.
	Flowtable []string

	// Layer2KeyFile holds the key that agents that announce addresses have in common;
	// empty: this one announces none.
	Layer2KeyFile string
	// Layer2Network, a CIDR, says at which of their addresses the nodes talk about who
	// announces what; empty: at the first InternalIP of each.
	Layer2Network string
	Layer2Port    uint16
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	o := Options{
		Namespace:          cmp.Or(os.Getenv("POD_NAMESPACE"), "portway-system"),
		LeaseRenewInterval: 10 * time.Second,
		NodeName:           os.Getenv("NODE_NAME"),
		Backend:            backendAuto, CTMark: 0x1000, NodePorts: topology.DefaultConfig().NodePorts,
		Layer2Port: topology.MembersPort,
	}
	if name, err := os.Hostname(); err == nil && o.NodeName == "" {
		o.NodeName = strings.ToLower(name)
	}
	return o
}

// AddFlags registers the options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.Manifests, "manifests", o.Manifests,
		"file or directory with the YAML or JSON of the API objects; may be repeated; edits take effect at once; of a directory *.yaml, *.yml and *.json are read, nothing below it")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig,
		"file that says how to reach the API server of the cluster to serve; needed outside of a pod when there are no --manifests")
	fs.StringVar(&o.Namespace, "namespace", o.Namespace,
		"namespace of the agents and the controller, with the heartbeat Leases and the Services of Gateways in mode LoadBalancer (default: the environment variable POD_NAMESPACE, or portway-system)")
	fs.Lookup("namespace").DefValue = "" // help is the same in every environment
	fs.DurationVar(&o.LeaseRenewInterval, "lease-renew-interval", o.LeaseRenewInterval,
		"how often the heartbeat Lease is renewed; the controller's patience has to be several times as long")
	fs.StringVar(&o.HealthBindAddress, "health-bind-address", o.HealthBindAddress,
		fmt.Sprintf("address that /healthz, /readyz and /metrics are served at; 0 turns them off (default: :%d in a cluster, 0 with --manifests)", topology.AgentPort))
	fs.StringVar(&o.NodeName, "node-name", o.NodeName,
		"name of this node: endpoints with this nodeName are local to it; in a cluster the name of its Node (default: the environment variable NODE_NAME, or the host's name)")
	fs.Lookup("node-name").DefValue = "" // help is the same on every machine
	fs.StringArrayVar(&o.NodeAddresses, "node-address", o.NodeAddresses,
		"address of this node that Gateways are served at; may be repeated, IPv4 and IPv6 (default: the global addresses of all interfaces; in a cluster those of them that the Node lists)")
	fs.StringVar(&o.NodeZone, "node-zone", o.NodeZone,
		"zone of this node, for Services that ask for endpoints close by (default: in a cluster the label topology.kubernetes.io/zone of the Node, else none)")
	fs.BoolVar(&o.EndTCPFlows, "end-tcp-flows", o.EndTCPFlows,
		"end TCP connections to endpoints that are gone for good, which no Service lists any more: the client's next packet is answered with a reset instead of by silence; UDP flows are always ended")
	fs.StringVar(&o.StatusOut, "status-out", o.StatusOut,
		"file that the statuses are written to, as YAML, whenever they change; SIGUSR1 prints them")
	fs.BoolVar(&o.PrintStatus, "print-status", o.PrintStatus,
		"print the statuses whenever they change")
	fs.StringVar(&o.Backend, "backend", o.Backend,
		"what programs the kernel: nftables, iptables, or auto, which is nftables where the kernel has it and iptables elsewhere; what the other one left is removed")
	fs.BoolVar(&o.Cleanup, "cleanup", o.Cleanup,
		"remove everything this program ever put into the kernel, and nothing else, then exit; in a cluster also what this node says of it there, its NodeReport and its Lease; established connections end where nobody else translates addresses")
	fs.StringVar(&o.CleanupAfter, "cleanup-after", o.CleanupAfter,
		"with --cleanup in a cluster: wait until the DaemonSet of this name in --namespace, which is the agents', is deleted, and its agent on this node has ended, which would put back what is removed")
	fs.BoolVar(&o.SetSysctls, "set-sysctls", o.SetSysctls,
		"turn packet forwarding on where it is off, for the address families in use")
	fs.Var(&o.NodePorts, "node-ports",
		"ports the node itself needs: Gateways that share the node's addresses cannot have them; in a cluster the same as the controller's, or no Gateway is ever programmed")
	fs.Var(&o.CTMark, "ct-mark",
		"the one bit of the conntrack mark that marks our flows; nobody else may use it")
	fs.StringSliceVar(&o.Flowtable, "flowtable", o.Flowtable,
		"interfaces, or patterns such as cali*, between which established flows of ours are forwarded by a flowtable, past everybody's rules in forward; '*' is all; both interfaces of a flow have to be among them; docs/design/0010-flowtable.md says who should not; needs nf_tables (default: none)")
	fs.StringVar(&o.Layer2KeyFile, "layer2-key-file", o.Layer2KeyFile,
		"file with the key that the agents of a cluster have in common, one per line, the first one used, such as the output of: openssl rand -base64 32; with it this node announces addresses of AddressPools with announcement Layer2 together with the others; needs NET_RAW (default: it announces none)")
	fs.StringVar(&o.Layer2Network, "layer2-network", o.Layer2Network,
		"CIDR that tells at which of their InternalIPs nodes talk about who announces what, the same on all nodes (default: the first InternalIP that the Node lists, and of other Nodes the first of its family)")
	fs.Uint16Var(&o.Layer2Port, "layer2-port", o.Layer2Port,
		"TCP and UDP port that nodes talk about it on, the same on all nodes")
}

// Validate reports everything that is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	switch o.Backend {
	case backendAuto, backendNFTables, backendIPTables:
	default:
		errs = append(errs, fmt.Errorf("--backend %q: must be auto, nftables or iptables", o.Backend))
	}
	if bits.OnesCount32(uint32(o.CTMark)) != 1 {
		errs = append(errs, fmt.Errorf("--ct-mark %s: must be exactly one bit, such as 0x1000", o.CTMark.String()))
	}
	if o.Cleanup {
		return errors.Join(errs...)
	}
	if o.CleanupAfter != "" {
		errs = append(errs, errors.New("--cleanup-after is for --cleanup"))
	}
	if len(o.Flowtable) > 0 {
		if err := (flowtable.Config{Interfaces: o.Flowtable}).Validate(); err != nil {
			errs = append(errs, fmt.Errorf("--flowtable: %w", err))
		}
	}
	switch {
	case len(o.Manifests) == 0:
		errs = append(errs, o.validateCluster())
	case o.Kubeconfig != "":
		errs = append(errs, errors.New("--kubeconfig and --manifests exclude each other: serve a cluster or files"))
	case o.Layer2KeyFile != "":
		errs = append(errs, errors.New("--layer2-key-file and --manifests exclude each other: addresses are announced in a cluster only"))
	}
	if o.NodeName == "" {
		errs = append(errs, errors.New("--node-name is missing and this host has no name: give one"))
	}
	if _, err := ParseAddresses(o.NodeAddresses); err != nil {
		errs = append(errs, fmt.Errorf("--node-address: %w", err))
	}
	if o.StatusOut != "" {
		errs = append(errs, o.validateStatusOut())
	}
	return errors.Join(errs...)
}

// validateCluster reports what is wrong for serving a cluster.
func (o *Options) validateCluster() error {
	var errs []error
	if o.LeaseRenewInterval < time.Second {
		errs = append(errs, fmt.Errorf("--lease-renew-interval %s: must be at least 1s", o.LeaseRenewInterval))
	}
	if problems := validation.IsDNS1123Label(o.Namespace); len(problems) > 0 {
		errs = append(errs, fmt.Errorf("--namespace %q: %s", o.Namespace, strings.Join(problems, "; ")))
	}
	if _, err := o.layer2Network(); err != nil {
		errs = append(errs, err)
	}
	if o.Layer2Port == 0 {
		errs = append(errs, errors.New("--layer2-port 0: must be a port that is the same on all nodes"))
	}
	if o.StatusOut != "" || o.PrintStatus {
		errs = append(errs, errors.New("--status-out and --print-status need --manifests: in a cluster the controller writes the statuses into the objects"))
	}
	return errors.Join(errs...)
}

// layer2Network is the CIDR of --layer2-network, not valid without one.
func (o *Options) layer2Network() (netip.Prefix, error) {
	if o.Layer2Network == "" {
		return netip.Prefix{}, nil
	}
	prefix, err := netip.ParsePrefix(o.Layer2Network)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--layer2-network %q: must be a CIDR, such as 192.0.2.0/24 or ::/0", o.Layer2Network)
	}
	return prefix.Masked(), nil
}

// healthAddress is where health and metrics are served; empty: nowhere.
func (o *Options) healthAddress() string {
	switch {
	case o.HealthBindAddress == "0":
		return ""
	case o.HealthBindAddress == "" && len(o.Manifests) == 0:
		return fmt.Sprintf(":%d", topology.AgentPort)
	default:
		return o.HealthBindAddress
	}
}

// validateStatusOut refuses a file that would be read back as a manifest.
func (o *Options) validateStatusOut() error {
	if cluster.Reads(o.Manifests, o.StatusOut) {
		return fmt.Errorf("--status-out %s lies in --manifests %s and would be read as a manifest: put it elsewhere", o.StatusOut, strings.Join(o.Manifests, ", "))
	}
	return nil
}

// ctMark is a flag value such as "0x1000".
type ctMark uint32

// Type names the value in help texts.
func (*ctMark) Type() string { return "hex" }

// String formats the mark as Set reads it.
func (m *ctMark) String() string { return fmt.Sprintf("%#x", uint32(*m)) }

// Set reads a number, hexadecimal with 0x.
func (m *ctMark) Set(text string) error {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return fmt.Errorf("%q: must be a number of 32 bits, such as 0x1000", text)
	}
	*m = ctMark(n)
	return nil
}
