package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/machine"
	"github.com/portway-dev/portway/integration/lab/internal/pid1"
)

// Components that Stop and Start know.
const (
	APIServer         = machine.APIServer
	ControllerManager = machine.ControllerManager
	Scheduler         = machine.Scheduler
	Etcd              = machine.Etcd
)

// Modes of kube-proxy: ProxyIPTables with the machine's "iptables", ProxyLegacy with its
// "iptables-legacy".
const (
	ProxyNFTables = machine.ProxyNFTables
	ProxyIPTables = machine.ProxyIPTables
	ProxyLegacy   = machine.ProxyLegacy
)

// CNI plugins of the full level.
const (
	CNIPtp    = machine.CNIPtp
	CNIBridge = machine.CNIBridge
)

// upLimit is what a lab may take to be ready once its programs are built.
const upLimit = 3 * time.Minute

// Options are what a lab is started with.
type Options struct {
	Dir   string // default DefaultDir
	Nodes int
	// Dual is IPv4 and IPv6, OnlyIPv6 the latter alone; default IPv4.
	Dual, OnlyIPv6 bool
	// Full runs a kubelet with containerd, runc and CNI plugins of this machine on
	// every node, where the small level has a fake kubelet; see CheckFull. CNI is the
	// plugin that connects the pods there, CNIPtp (default) or CNIBridge.
	Full bool
	CNI  string
	// Archives are images for the full level, as Load takes them. The lab's own,
	// "portway-lab/echo:v1", is there anyway.
	Archives []string
	// CRDs of the Gateway API to apply: CRDsStandard, CRDsExperimental,
	// CRDsV1Alpha2, CRDsNone or a directory of manifests. Default CRDsStandard.
	CRDs string
	// On the small level a binary stands for each image. Images are binaries, or directories
	// with the files of an image, by image name, without tag, or by the last part of it.
	// Any other image is a binary called like the last part of its name in one of
	// BinDirs or among the lab's own ("echo").
	Images  map[string]string
	BinDirs []string
	// KubeProxy is the mode in which every node runs kube-proxy; empty: none does.
	KubeProxy string
	// Audit records the requests of service accounts in DIR/audit.log.
	Audit bool
	// Progress gets what is being done; nil: nobody.
	Progress io.Writer
}

// Lab is a lab that runs. Its methods may be called concurrently.
type Lab struct {
	dir, bin string
	families layout.Families
	full     bool
	first    process
}

// CacheDir is where what is built is kept.
func CacheDir() string {
	if dir := os.Getenv("PORTWAY_LAB_CACHE"); dir != "" {
		return dir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/tmp"
	}
	return filepath.Join(base, "portway-lab")
}

// DefaultDir is where a lab is kept if nobody says otherwise.
func DefaultDir() string {
	if dir := os.Getenv("PORTWAY_LAB_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(CacheDir(), "run")
}

// Up builds what is missing and starts a lab. It returns when the API server, all
// CRDs and all nodes are ready.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root: it makes mount, network and process namespaces")
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(orDefault(o.Dir, DefaultDir()))
	if err != nil {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	bin, err := build(ctx, o.Progress, o.Full)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	// Of two that start a lab in the same directory the second finds that of the first.
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if running, err := Open(dir); err == nil {
		return nil, fmt.Errorf("a lab runs in %s already (process %d); take it down first", dir, running.first.pid)
	}
	if err := clear(dir); err != nil {
		return nil, err
	}
	config, err := o.config(ctx, dir, bin)
	if err != nil {
		return nil, err
	}
	if err := writeConfig(config); err != nil {
		return nil, err
	}
	l, err := start(config)
	if err != nil {
		return nil, err
	}
	if err := l.waitReady(ctx); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

func (o Options) check() error {
	if err := machine.CheckProxy(o.KubeProxy); err != nil {
		return err
	}
	switch {
	case o.Dual && o.OnlyIPv6:
		return errors.New("both families and one alone are asked for")
	case !o.Full && (o.CNI != "" || len(o.Archives) > 0):
		return errors.New("CNI plugins and image archives are for the full level only")
	case !o.Full:
		return nil
	case len(o.Images)+len(o.BinDirs) > 0:
		return errors.New("on the full level no binary stands for an image: load an archive")
	}
	return errors.Join(machine.CheckCNI(orDefault(o.CNI, CNIPtp)), CheckFull())
}

// CheckFull says why this machine cannot run the full level: what is missing, and what
// installs it.
func CheckFull() error { return machine.CheckFull() }

func (o Options) families() layout.Families {
	switch {
	case o.Dual:
		return layout.Dual
	case o.OnlyIPv6:
		return layout.IPv6
	}
	return layout.IPv4
}

// config prepares what a lab is made of in its directory.
func (o Options) config(ctx context.Context, dir, bin string) (machine.Config, error) {
	c := machine.Config{
		Dir: dir, Bin: bin, Nodes: o.Nodes, Families: o.families(), Full: o.Full, CNI: orDefault(o.CNI, CNIPtp),
		Images: map[string]string{}, KubeProxy: o.KubeProxy, Audit: o.Audit,
	}
	var err error
	if c.CRDs, err = prepareCRDs(ctx, orDefault(o.CRDs, CRDsStandard), filepath.Join(dir, "crds")); err != nil {
		return c, err
	}
	for image, binary := range o.Images {
		if c.Images[image], err = filepath.Abs(binary); err != nil {
			return c, err
		}
	}
	for _, d := range o.BinDirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return c, err
		}
		c.BinDirs = append(c.BinDirs, abs)
	}
	if !o.Full {
		return c, nil
	}
	return c, prepareImages(dir, bin, o.Archives)
}

// clear makes the directory of a lab anew, without what an earlier one may have left.
func clear(dir string) error {
	if old, err := machine.ReadConfig(dir); err == nil && old.Full {
		if err := removeGroups(old.Bin, dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// removeGroups removes the control groups of a lab that is dead. They are mounted for
// it, where nobody else sees it.
func removeGroups(bin, dir string) error {
	remove := exec.Command(filepath.Join(bin, "lab"), "remove-groups", machine.Group(dir))
	remove.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := remove.CombinedOutput(); err != nil {
		return fmt.Errorf("remove control groups: %w: %s", err, out)
	}
	return nil
}

// checkDir refuses directories that a lab cannot work in.
func checkDir(dir string) error {
	for _, d := range []string{dir, CacheDir()} {
		for _, hidden := range []string{"/run/", "/var/run/", "/var/lib/", "/var/log/"} {
			if strings.HasPrefix(d, hidden) {
				return fmt.Errorf("%s: nodes have a %s of their own and would not see it", d, hidden)
			}
		}
	}
	if socket := filepath.Join(dir, machine.SocketFile); len(socket) >= len(unix.RawSockaddrUnix{}.Path) {
		return fmt.Errorf("%s is too long a name for a socket", socket)
	}
	return nil
}

func writeConfig(c machine.Config) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	// Kubelets read it at any time; they must find the old or the new one.
	file := filepath.Join(c.Dir, machine.ConfigFile)
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// start starts the first process of a lab, which outlives this one.
func start(c machine.Config) (*Lab, error) {
	log, err := os.Create(filepath.Join(c.Dir, "lab.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	self := filepath.Join(c.Bin, "lab")
	args := []string{"init", "--hostname", "machine"}
	if c.Full {
		args = append(args, "--cgroups")
	}
	cmd := exec.Command(self, append(args, "--", self, "machine", c.Dir)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: pid1.CloneFlags | unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	l := &Lab{dir: c.Dir, bin: c.Bin, families: c.Families, full: c.Full}
	// Until it is waited for, the process keeps its number even if it has ended.
	if l.first, err = find(cmd.Process.Pid); err == nil {
		err = l.first.write(c.Dir)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("start lab: %w", err), cmd.Process.Kill())
	}
	go func() { _ = cmd.Wait() }() // or it would stay as a zombie
	return l, err
}

func (l *Lab) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	for {
		status, err := l.Status()
		switch {
		case err == nil && status.Ready:
			return nil
		case err == nil && status.Failed != "":
			return fmt.Errorf("start lab: %s", status.Failed)
		case !l.first.alive():
			log, _ := os.ReadFile(filepath.Join(l.dir, "lab.log"))
			return fmt.Errorf("start lab: it ended: %s", log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start lab: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Open finds the lab that runs in a directory.
func Open(dir string) (*Lab, error) {
	dir, err := filepath.Abs(orDefault(dir, DefaultDir()))
	if err != nil {
		return nil, err
	}
	first, err := readProcess(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab runs in %s", dir)
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: dir, first: first}
	if !first.alive() {
		return nil, fmt.Errorf("no lab runs in %s any more", dir)
	}
	config, err := machine.ReadConfig(dir)
	l.bin, l.families, l.full = config.Bin, config.Families, config.Full
	return l, err
}

// Down ends the lab with all that runs in it. Its logs stay until the next Up in
// the same directory.
func (l *Lab) Down() error {
	if err := l.first.kill(); err != nil {
		return err
	}
	err := errors.Join(os.Remove(filepath.Join(l.dir, pidFile)), os.RemoveAll(filepath.Join(l.dir, "etcd")))
	if !l.full {
		return err
	}
	disks, globErr := filepath.Glob(filepath.Join(l.dir, "node*", "root"))
	for _, disk := range append(disks, filepath.Join(l.dir, machine.ImagesDir)) {
		err = errors.Join(err, os.RemoveAll(disk))
	}
	return errors.Join(err, globErr, removeGroups(l.bin, l.dir))
}

// Dir is the directory of the lab.
func (l *Lab) Dir() string { return l.dir }

// Kubeconfig is the file with the credentials of the administrator. It works in
// the network of the machine place only, see Lab.Machine.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.dir, "pki", "admin.kubeconfig") }

// RESTConfig returns a configuration for clients of this process: their
// connections are opened in the network of the lab.
func (l *Lab) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 500, 1000
	config.Dial = l.Machine().Dial
	return config, nil
}

// SetImage makes a binary, or a directory, stand for an image from the next start of a container on.
func (l *Lab) SetImage(image, binary string) error {
	if l.full {
		return errors.New("on the full level no binary stands for an image: load an archive")
	}
	config, err := machine.ReadConfig(l.dir)
	if err != nil {
		return err
	}
	if config.Images[image], err = filepath.Abs(binary); err != nil {
		return err
	}
	return writeConfig(config)
}

// Status says what runs.
func (l *Lab) Status() (machine.Status, error) {
	var status machine.Status
	return status, l.call("Status", machine.None{}, &status)
}

// Crash ends a node like a power failure; Boot starts it again, or a new one.
func (l *Lab) Crash(node int) error { return l.call("Crash", node, &machine.None{}) }

// Boot starts a node that does not run and waits until it is Ready.
func (l *Lab) Boot(node int) error { return l.call("Boot", node, &machine.None{}) }

// Disconnect takes a node off the network while it runs on.
func (l *Lab) Disconnect(node int) error {
	return l.call("Wire", machine.Wire{Node: node}, &machine.None{})
}

// Connect undoes Disconnect.
func (l *Lab) Connect(node int) error {
	return l.call("Wire", machine.Wire{Node: node, Connected: true}, &machine.None{})
}

// StopKubelet kills the kubelet of a node; its pods run on. StartKubelet starts it again
// and waits until it says that it is well. Both are for the full level only.
func (l *Lab) StopKubelet(node int) error {
	return l.call("Kubelet", machine.Kubelet{Node: node}, &machine.None{})
}

// StartKubelet undoes StopKubelet.
func (l *Lab) StartKubelet(node int) error {
	return l.call("Kubelet", machine.Kubelet{Node: node, Run: true}, &machine.None{})
}

// Proxy runs kube-proxy on a node in a mode, anew if it runs, and returns when all its
// rules are written; without a mode it ends it. The rules stay, until kube-proxy starts
// there in another mode.
func (l *Lab) Proxy(node int, mode string) error {
	return l.call("Proxy", machine.Proxy{Node: node, Mode: mode}, &machine.None{})
}

// Stop kills a component of the control plane.
func (l *Lab) Stop(component string) error { return l.call("Stop", component, &machine.None{}) }

// Start starts a component again; the API server is ready on return.
func (l *Lab) Start(component string) error { return l.call("Start", component, &machine.None{}) }

func (l *Lab) call(method string, argument, answer any) error {
	conn, err := net.Dial("unix", filepath.Join(l.dir, machine.SocketFile))
	if err != nil {
		return fmt.Errorf("lab in %s: %w", l.dir, err)
	}
	client := rpc.NewClient(conn)
	defer func() { _ = client.Close() }()
	return client.Call("Control."+method, argument, answer)
}

func orDefault(value, other string) string {
	if value == "" {
		return other
	}
	return value
}

// Bin is the path of one of the lab's programs.
func (l *Lab) Bin(program string) string { return filepath.Join(l.bin, program) }
