package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
)

// Control is what a machine does when told so over its socket, by net/rpc under
// the name "Control".
type Control struct {
	machine *Machine
	ctx     context.Context // of the machine; net/rpc knows none
}

// None stands for no argument and no answer.
type None struct{}

// Wire says whether a node is connected.
type Wire struct {
	Node      int
	Connected bool
}

// Proxy says in which mode a node is to run kube-proxy; empty: it is not.
type Proxy struct {
	Node int
	Mode string
}

// Kubelet says whether the kubelet of a node is to run.
type Kubelet struct {
	Node int
	Run  bool
}

// Status says what runs. Processes are numbered as the lab sees them: the first
// process of the lab is 1.
type Status struct {
	Ready      bool
	Failed     string         // why the lab did not come up
	Machine    int            // this process
	Outside    string         // path of the network namespace outside
	Nodes      map[int]int    // the first process of each node that runs
	Components map[string]int // 0: does not run
}

// Status reports what runs.
func (c *Control) Status(_ None, status *Status) error {
	*status = c.machine.status()
	return nil
}

// Boot is Machine.Boot.
func (c *Control) Boot(node int, _ *None) error { return c.machine.Boot(c.ctx, node) }

// Crash is Machine.Crash.
func (c *Control) Crash(node int, _ *None) error { return c.machine.Crash(node) }

// Wire is Machine.Wire.
func (c *Control) Wire(w Wire, _ *None) error { return c.machine.Wire(w.Node, w.Connected) }

// Proxy is Machine.Proxy.
func (c *Control) Proxy(p Proxy, _ *None) error { return c.machine.Proxy(c.ctx, p.Node, p.Mode) }

// Kubelet is Machine.StartKubelet or StopKubelet.
func (c *Control) Kubelet(k Kubelet, _ *None) error {
	if k.Run {
		return c.machine.StartKubelet(c.ctx, k.Node)
	}
	return c.machine.StopKubelet(k.Node)
}

// Load is Machine.Load.
func (c *Control) Load(archive string, _ *None) error { return c.machine.Load(c.ctx, archive) }

// Start is Machine.Start.
func (c *Control) Start(component string, _ *None) error {
	return c.machine.Start(c.ctx, component)
}

// Stop is Machine.Stop.
func (c *Control) Stop(component string, _ *None) error { return c.machine.Stop(component) }

func (m *Machine) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Ready: m.ready, Machine: os.Getpid(), Nodes: map[int]int{}, Components: map[string]int{}}
	if m.failed != nil {
		s.Failed = m.failed.Error()
	}
	if m.outside != nil {
		s.Outside = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.outside.FD())
	}
	for i, n := range m.nodes {
		if n.init.ended() == nil {
			s.Nodes[i] = n.init.pid()
		}
	}
	for name, c := range m.components {
		s.Components[name] = 0
		if c.running != nil && c.running.ended() == nil {
			s.Components[name] = c.running.pid()
		}
	}
	return s
}

func (m *Machine) listen() (net.Listener, error) {
	return net.Listen("unix", filepath.Join(m.Dir, SocketFile))
}

func (m *Machine) serve(ctx context.Context, listener net.Listener) error {
	server := rpc.NewServer()
	if err := server.Register(&Control{machine: m, ctx: ctx}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go server.ServeConn(conn)
	}
}
