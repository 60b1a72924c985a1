package agent

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

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
	Manifests     []string
	NodeName      string
	NodeAddresses []string
	StatusOut     string
	PrintStatus   bool
	Backend       string
	Cleanup       bool
	SetSysctls    bool
	NodePorts     portRanges
	CTMark        ctMark
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	o := Options{Backend: backendAuto, CTMark: 0x1000, NodePorts: topology.DefaultConfig().NodePorts}
	if name, err := os.Hostname(); err == nil {
		o.NodeName = strings.ToLower(name)
	}
	return o
}

// AddFlags registers the options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.Manifests, "manifests", o.Manifests,
		"file or directory with the YAML or JSON of the API objects; may be repeated; edits take effect at once; of a directory *.yaml, *.yml and *.json are read, nothing below it")
	fs.StringVar(&o.NodeName, "node-name", o.NodeName,
		"name of this node: endpoints with this nodeName are local to it (default: the host's name)")
	fs.Lookup("node-name").DefValue = "" // help is the same on every machine
	fs.StringArrayVar(&o.NodeAddresses, "node-address", o.NodeAddresses,
		"address of this node that Gateways are served at; may be repeated, IPv4 and IPv6 (default: the global addresses of all interfaces)")
	fs.StringVar(&o.StatusOut, "status-out", o.StatusOut,
		"file that the statuses are written to, as YAML, whenever they change; SIGUSR1 prints them")
	fs.BoolVar(&o.PrintStatus, "print-status", o.PrintStatus,
		"print the statuses whenever they change")
	fs.StringVar(&o.Backend, "backend", o.Backend, "auto or nftables")
	fs.BoolVar(&o.Cleanup, "cleanup", o.Cleanup,
		"remove everything this program ever put into the kernel, and nothing else, then exit")
	fs.BoolVar(&o.SetSysctls, "set-sysctls", o.SetSysctls,
		"turn packet forwarding on where it is off, for the address families in use")
	fs.Var(&o.NodePorts, "node-ports",
		"ports the node itself needs: Gateways that share the node's addresses cannot have them")
	fs.Var(&o.CTMark, "ct-mark",
		"the one bit of the conntrack mark that marks our flows; nobody else may use it")
}

// Validate reports everything that is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	switch o.Backend {
	case backendAuto, backendNFTables:
	case backendIPTables:
		errs = append(errs, errors.New("--backend iptables is not built yet, see docs/; use --backend nftables"))
	default:
		errs = append(errs, fmt.Errorf("--backend %q: must be auto or nftables", o.Backend))
	}
	if bits.OnesCount32(uint32(o.CTMark)) != 1 {
		errs = append(errs, fmt.Errorf("--ct-mark %s: must be exactly one bit, such as 0x1000", o.CTMark.String()))
	}
	if o.Cleanup {
		return errors.Join(errs...)
	}
	if len(o.Manifests) == 0 {
		errs = append(errs, errors.New("--manifests is missing: name the files or directories with the API objects"))
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

// validateStatusOut refuses a file that would be read back as a manifest.
func (o *Options) validateStatusOut() error {
	out, err := filepath.Abs(o.StatusOut)
	if err != nil {
		return fmt.Errorf("--status-out %s: %w", o.StatusOut, err)
	}
	for _, path := range o.Manifests {
		manifest, err := filepath.Abs(path)
		if err == nil && (out == manifest || filepath.Dir(out) == manifest) {
			return fmt.Errorf("--status-out %s lies in --manifests %s and would be read as a manifest: put it elsewhere", o.StatusOut, path)
		}
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
