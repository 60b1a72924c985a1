package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is an anonymous network namespace. It lives until Close and until
// the last socket and process in it is gone. Safe for concurrent use.
type Namespace struct {
	name   string
	handle netns.NsHandle
	links  *netlink.Handle
}

// New makes a network namespace with its loopback up. The name is for messages
// and dumps only. The caller closes it.
func New(name string) (*Namespace, error) {
	handle, err := create()
	if err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	n := &Namespace{name: name, handle: handle}
	if err := n.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare network namespace %s: %w", name, err), n.Close())
	}
	return n, nil
}

// create unshares on a locked thread and goes back.
func create() (netns.NsHandle, error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return netns.None(), err
	}
	defer goHome(home)
	return netns.New()
}

func (n *Namespace) prepare() error {
	var err error
	if n.links, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	for _, setting := range [...][2]string{
		{"net/ipv4/conf/all/rp_filter", "0"}, // the machine's values are inherited
		{"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/icmp_ratemask", "0"}, // an error for every packet that deserves one
		{"net/ipv6/icmp/ratelimit", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"}, // they use up what a client may get of errors
		{"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"}, // addresses are usable at once
		{"net/ipv6/conf/default/accept_ra", "0"},
	} {
		if err := n.SetSysctl(setting[0], setting[1]); err != nil {
			return err
		}
	}
	return n.Up("lo")
}

// Name returns the name given to New.
func (n *Namespace) Name() string { return n.name }

// Handle returns the file descriptor of the namespace, valid until Close.
func (n *Namespace) Handle() int { return int(n.handle) }

// Close gives the namespace up. It must not be used afterwards.
func (n *Namespace) Close() error {
	if n.links != nil {
		n.links.Close()
	}
	if !n.handle.IsOpen() {
		return nil
	}
	return n.handle.Close()
}

// Do runs f inside the namespace, on the calling goroutine, whose thread is
// locked meanwhile. Sockets opened in f stay in the namespace after Do; goroutines
// started in f are outside of it. f may call t.Fatal. Calls may be nested.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	defer goHome(home)
	if err := netns.Set(n.handle); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	return f()
}

// goHome returns the thread to its namespace, closes its handle and unlocks the
// thread. A thread that stayed would run strangers' goroutines in the wrong network.
func goHome(home netns.NsHandle) {
	if err := errors.Join(netns.Set(home), home.Close()); err != nil {
		panic(fmt.Sprintf("netns: cannot leave a network namespace: %v", err))
	}
	runtime.UnlockOSThread()
}

// SetSysctl writes a network sysctl of this namespace. The key is a path below
// /proc/sys and begins with "net/": all others belong to the whole machine.
func (n *Namespace) SetSysctl(key, value string) error {
	if !strings.HasPrefix(key, "net/") {
		return fmt.Errorf("sysctl %s does not belong to a network namespace", key)
	}
	// /proc/sys/net shows the namespace of the thread that opens the file.
	return n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
	})
}

// Sysctl reads a network sysctl of this namespace.
func (n *Namespace) Sysctl(key string) (string, error) {
	var value []byte
	err := n.Do(func() (err error) {
		value, err = os.ReadFile(filepath.Join("/proc/sys", key))
		return err
	})
	return strings.TrimSpace(string(value)), err
}

// Forward turns the namespace into a router for both families.
func (n *Namespace) Forward() error {
	return errors.Join(
		n.SetSysctl("net/ipv4/ip_forward", "1"),
		n.SetSysctl("net/ipv6/conf/all/forwarding", "1"),
	)
}

// starter is one thread that lives as long as the process: PR_SET_PDEATHSIG
// fires when the thread that started the child ends, not the process (prctl(2)).
var starter = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// Start starts a command inside the namespace. The command is killed when this
// process ends; waiting for it is the caller's.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	starter() <- func() { result <- n.Do(cmd.Start) }
	return <-result
}

// Output runs a command inside the namespace and returns what it printed on both
// streams. It is in the error, too.
func (n *Namespace) Output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("in namespace %s: %s %s: %w: %s", n.name, name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}
