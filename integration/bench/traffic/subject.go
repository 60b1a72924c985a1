package traffic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/flowtable"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

// A Subject is one way to bring the client's traffic to the backend.
type Subject struct {
	Name string
	// Routed: nobody translates; the client sends to the endpoints themselves.
	Routed bool
	// One: there is one endpoint, whatever the size.
	One bool
	// Peer: others do the same in the kernel.
	Peer bool
	// Proxy: a process passes on the bytes of TCP connections; there is no UDP.
	Proxy bool
	// Note is what is fair about its settings, and what is not.
	Note string
	load func(*Loaded) error

	untracked bool // the node follows no flows
}

// Names of subjects that others are compared with.
const (
	Ours          = figure.Ours
	ConntrackOnly = "conntrack only"
	OneEndpoint   = "conntrack only, one endpoint"
	StaticDNAT    = "static dnat"
	Offloaded     = "portway, flowtable"
)

// Subjects are all that there are, in the order of the report.
func Subjects() []Subject {
	return []Subject{
		{
			Name: "no NAT, no conntrack", Routed: true, untracked: true, load: func(*Loaded) error { return nil },
			Note: "The node routes and has no rules.",
		},
		{
			Name: ConntrackOnly, Routed: true, load: (*Loaded).track,
			Note: "The node routes and follows the flows; no chain sees them.",
		},
		{
			Name: OneEndpoint, Routed: true, One: true, load: (*Loaded).track,
			Note: "The same with all flows to one endpoint, as with static dnat.",
		},
		{
			Name: StaticDNAT, load: (*Loaded).translate,
			Note: "One rule in one chain, of any number of listeners: all their ports to one endpoint.",
		},
		{
			Name: Ours, load: (*Loaded).program,
			Note: "The rules as the agent programs them, all endpoints on the node.",
		},
		{
			Name: Offloaded, load: (*Loaded).offload,
			Note: "The same rules, and a flowtable for all interfaces (--flowtable).",
		},
		without("chain postrouting", "flush chain inet portway postrouting"),
		without("filter chains", "delete chain inet portway filter-prerouting; delete chain inet portway filter-output"),
		kubeProxy("nftables"),
		kubeProxy("iptables"),
		{
			Name: "haproxy", Proxy: true, load: (*Loaded).haproxy,
			Note: "TCP mode, one thread on the processor of the measurement, splice-auto with pipes of 1 MB, no logs, no checks.",
		},
		{
			Name: "nginx stream", Proxy: true, load: (*Loaded).nginx,
			Note: "One process on the processor of the measurement, which reuseport and accept_mutex are of no use to; multi_accept, buffers of the default size, no logs, no checks (max_fails=0).",
		},
	}
}

// without is our rules but for a part, to see what the part takes.
func without(part, script string) Subject {
	return Subject{
		Name: Ours + " without " + part, Note: "The same rules less " + part + ": no flow here needs them.",
		load: func(l *Loaded) error {
			if err := l.program(); err != nil {
				return err
			}
			return nft(l.Node, script+"\n")
		},
	}
}

// Loaded is a Subject at work in a Site of its own.
type Loaded struct {
	Subject
	*Site
	// Proxies are the processes that take part in the traffic, by ID.
	Proxies []int
	// Most is how many connections a proxy can hold; 0: whatever the kernel can.
	Most int
	cpu  int
	// protocols of its listeners.
	protocols []rules.Protocol
	dir       string // for configurations, gone after Close
	closers   []func() error
}

// Load sets a Subject up for protocols, of which none is all. cpu is where a proxy may run. An
// *Unavailable error says that this machine lacks what the Subject needs.
func (s Subject) Load(size Size, cpu int, protocols ...rules.Protocol) (_ *Loaded, err error) {
	if s.One {
		size = Size{1, 1}
	}
	if len(protocols) == 0 {
		protocols = both
	}
	site, err := NewSite(size)
	if err != nil {
		return nil, err
	}
	l := &Loaded{Subject: s, Site: site, cpu: cpu, protocols: protocols}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", s.Name, size, errors.Join(err, l.Close()))
		}
	}()
	if l.dir, err = os.MkdirTemp("", "portway-bench-"); err != nil {
		return nil, err
	}
	if err := s.load(l); err != nil {
		return nil, err
	}
	if !s.untracked && !s.Proxy {
		// The flows of a round are there until they are forgotten.
		if err := l.Node.SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "600"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Close ends it all.
func (l *Loaded) Close() error {
	var errs []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		errs = append(errs, l.closers[i]())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(append(errs, l.Site.Close())...)
}

// Unavailable is the error of a Subject that cannot be had on this machine.
type Unavailable struct{ Reason string }

// Error is one clause that says what is missing.
func (u *Unavailable) Error() string { return u.Reason }

func lookPath(name, cure string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &Unavailable{fmt.Sprintf("there is no %s; %s", name, cure)}
	}
	return path, nil
}

// nft has a namespace take a script.
func nft(n *netns.Namespace, script string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	p, err := n.Run(cmd)
	if err != nil {
		return err
	}
	<-p.Done()
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("nft -f: %s", p.Stderr())
	}
	return nil
}

// track follows flows by a chain that none of the client's packets comes to.
func (l *Loaded) track() error {
	return nft(l.Node, `table inet tracked {
	chain input { type filter hook input priority filter; ct state invalid drop; }
}`)
}

func (l *Loaded) translate() error {
	rule := "ip daddr %s %s dport %d-%d dnat ip to %s"
	if l.Listeners == 1 {
		rule = "ip daddr %s %s dport %d dnat ip to %[5]s"
	}
	script := "table inet static {\n\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat;\n"
	for _, protocol := range l.protocols {
		first, last := l.Listener(0), l.Listener(l.Listeners-1)
		script += "\t\t" + fmt.Sprintf(rule, first.Addr(), protocol, first.Port(), last.Port(), l.Endpoint(0, 0)) + "\n"
	}
	return nft(l.Node, script+"\t}\n}\n")
}

func (l *Loaded) program() error {
	config := nftables.DefaultConfig()
	config.NetNS = l.Node.Handle()
	programmer, err := nftables.New(config)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, programmer.Close)
	results, err := programmer.Program(context.Background(), l.state(l.protocols...))
	if err == nil && len(results.Errors) > 0 {
		err = fmt.Errorf("not committed: %v", results.Errors)
	}
	return err
}

// offload is program, and the flowtable that the agent makes where it is asked for.
func (l *Loaded) offload() error {
	table := flowtable.New(flowtable.Config{
		Mark: nftables.DefaultConfig().Mark, Interfaces: []string{"*"}, NetNS: l.Node.Handle(),
	})
	_, err := table.Ensure()
	if unable := (*flowtable.UnableError)(nil); errors.As(err, &unable) {
		return &Unavailable{unable.Error()}
	}
	if err != nil {
		return err
	}
	return l.program()
}
