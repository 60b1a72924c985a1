package controller

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/portway-dev/portway/internal/ports"
)

// Options are what the operator chose.
type Options struct {
	Kubeconfig string
	// Namespace holds the Leases, the one of the leader and those of agents, and Services of
	// ours.
	Namespace string
	Bind      string
	KubeQPS   float32
	KubeBurst int
	// NodeAddressType is Internal or External.
	NodeAddressType string
	LeaderElection  LeaderElection
	Config          Config
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	o := Options{
		Namespace: os.Getenv("POD_NAMESPACE"),
		Bind:      ":9618",
		KubeQPS:   50, KubeBurst: 100,
		NodeAddressType: "Internal",
		LeaderElection:  DefaultLeaderElection(),
		Config:          DefaultConfig(),
	}
	if o.Namespace == "" {
		o.Namespace = "portway-system"
	}
	name, err := os.Hostname()
	if err != nil {
		name = "portway-controller"
	}
	o.LeaderElection.Identity = name + "_" + string(uuid.NewUUID())
	return o
}

// AddFlags registers the options.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig,
		"file that says how to reach the API server (default: as the pod this runs in)")
	fs.StringVar(&o.Namespace, "namespace", o.Namespace,
		"namespace of this program and its agents, where their Leases and the Services of Gateways in mode LoadBalancer are (default: the environment variable POD_NAMESPACE, or portway-system)")
	fs.Lookup("namespace").DefValue = "" // help is the same in every environment
	fs.StringVar(&o.Bind, "bind-address", o.Bind,
		"address and port of /healthz, /readyz and /metrics, over HTTP; empty for none")
	fs.Float32Var(&o.KubeQPS, "kube-api-qps", o.KubeQPS,
		"status writes per second, on average; Events are limited apart from them, to 10 per second")
	fs.IntVar(&o.KubeBurst, "kube-api-burst", o.KubeBurst,
		"status writes at once after a pause")
	fs.IntVar(&o.Config.Workers, "concurrent-writes", o.Config.Workers,
		"statuses that are written at the same time; a quarter of them are kept for Gateways, so that routes never hold them up")
	fs.DurationVar(&o.Config.AgentTimeout, "agent-timeout", o.Config.AgentTimeout,
		"an agent that was not seen to renew its Lease for so long is silent: the addresses of its node leave the Gateways; agents renew every 10 s")
	fs.StringVar(&o.NodeAddressType, "node-address-type", o.NodeAddressType,
		"which addresses of nodes Gateways get: Internal or External")
	fs.Var((*ports.Ranges)(&o.Config.Topology.NodePorts), "node-ports",
		"ports the nodes themselves need: Gateways that share the nodes' addresses cannot have them; the same as the agents'")
	e := &o.LeaderElection
	fs.BoolVar(&e.Enabled, "leader-elect", e.Enabled,
		"agree with other replicas on the one that writes; without it there must be no other")
	fs.StringVar(&e.Name, "leader-elect-name", e.Name, "name of the leader's Lease; deploy/base permits the default only")
	fs.DurationVar(&e.LeaseDuration, "leader-elect-lease-duration", e.LeaseDuration,
		"a leader that was not seen to renew for so long is replaced")
	fs.DurationVar(&e.RenewDeadline, "leader-elect-renew-deadline", e.RenewDeadline,
		"a leader that could not renew for so long stops writing")
	fs.DurationVar(&e.RetryPeriod, "leader-elect-retry-period", e.RetryPeriod,
		"how often to renew or to try to become leader")
}

// Complete derives what follows from the flags and reports everything that is
// wrong with them.
func (o *Options) Complete() error {
	var errs []error
	switch o.NodeAddressType {
	case "Internal":
		o.Config.NodeAddressType = corev1.NodeInternalIP
	case "External":
		o.Config.NodeAddressType = corev1.NodeExternalIP
	default:
		errs = append(errs, fmt.Errorf("--node-address-type %q: must be Internal or External", o.NodeAddressType))
	}
	if strings.TrimSpace(o.Namespace) == "" {
		errs = append(errs, errors.New("--namespace is empty: name the namespace this program runs in"))
	}
	if o.KubeQPS <= 0 || o.KubeBurst < 1 {
		errs = append(errs, fmt.Errorf("--kube-api-qps %g and --kube-api-burst %d: must be positive", o.KubeQPS, o.KubeBurst))
	}
	e := &o.LeaderElection
	e.Namespace, o.Config.Topology.Namespace = o.Namespace, o.Namespace
	if e.Enabled && (e.LeaseDuration <= e.RenewDeadline || e.RenewDeadline <= 2*e.RetryPeriod || e.RetryPeriod <= 0) {
		errs = append(errs, fmt.Errorf("--leader-elect-lease-duration %s, --leader-elect-renew-deadline %s and --leader-elect-retry-period %s: "+
			"each must be longer than the next, the deadline more than twice the period", e.LeaseDuration, e.RenewDeadline, e.RetryPeriod))
	}
	return errors.Join(append(errs, o.Config.Validate())...)
}
