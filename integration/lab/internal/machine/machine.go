// Package machine is the one process that runs a lab: it makes the network, runs
// etcd, the API server and the controllers, and boots and crashes nodes. It is
// started by package pid1 inside the namespaces of the lab and is told what to do
// over a socket in the lab's directory, see Control.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/netns"
	"github.com/portway-dev/portway/integration/lab/internal/pki"
)

// Config is what a lab is made of. It is read from DIR/config.json.
type Config struct {
	Dir      string // where everything of this lab is written
	Bin      string // the lab's own binaries
	Nodes    int
	Families layout.Families // of all addresses
	Full     bool            // real kubelets
	CNI      string          // the plugin of the full level that connects pods
	// Images maps an image's name, without tag, to a binary; BinDirs are searched
	// for a binary called like the last part of the name.
	Images    map[string]string
	BinDirs   []string
	CRDs      string // a directory of manifests applied at start; empty: none
	KubeProxy string // the mode in which every node runs it; empty: none does
	Audit     bool   // record every request of a service account in DIR/audit.log
}

// Config file and socket of a lab.
const (
	ConfigFile = "config.json"
	SocketFile = "control.sock"
)

// ReadConfig reads the configuration of the lab in a directory.
func ReadConfig(dir string) (Config, error) {
	var c Config
	data, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(data, &c)
}

// Machine runs one lab.
type Machine struct {
	Config

	machine *netns.Handle // where the API server is; this process is in it
	outside *netns.Handle
	client  *kubernetes.Clientset // set by startControlPlane

	signing   sync.Mutex
	authority *pki.Authority

	mu         sync.Mutex
	components map[string]*component
	nodes      map[int]*node
	ready      bool
	failed     error
}

// New takes the network namespace it is called in as the machine's.
func New(c Config) (*Machine, error) {
	here, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	return &Machine{Config: c, machine: here, components: map[string]*component{}, nodes: map[int]*node{}}, nil
}

// Run brings the lab up and serves the control socket until the context ends.
func (m *Machine) Run(ctx context.Context) error {
	listener, err := m.listen()
	if err != nil {
		return err
	}
	go func() {
		started := time.Now()
		err := m.up(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Lab failed")
		} else {
			klog.FromContext(ctx).Info("Lab is up", "nodes", m.Nodes, "took", time.Since(started).Round(time.Millisecond))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ready, m.failed = err == nil, err
	}()
	return m.serve(ctx, listener)
}

func (m *Machine) up(ctx context.Context) error {
	if m.Nodes > layout.MaxNodes {
		return fmt.Errorf("at most %d nodes", layout.MaxNodes)
	}
	if err := m.makeNetwork(); err != nil {
		return err
	}
	if err := m.startControlPlane(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.applyCRDs(ctx) })
	for i := range m.Nodes {
		group.Go(func() error { return m.Boot(ctx, i+1) })
	}
	return group.Wait()
}

// waitFor calls try until it succeeds, the process it depends on has ended, or the
// time is over.
func waitFor(ctx context.Context, limit time.Duration, what string, on *process, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if on != nil {
			if ended := on.ended(); ended != nil {
				return fmt.Errorf("wait for %s: %w", what, ended)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), last))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
