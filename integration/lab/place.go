package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/machine"
	"github.com/portway-dev/portway/integration/lab/internal/netns"
)

const dialLimit = 10 * time.Second

// Place is somewhere in the lab to work at.
type Place struct {
	lab  *Lab
	name string
	find func() (target, error)
	// Addresses of the place, IPv4 first.
	Addresses []netip.Addr
}

// target is how a place is entered, as this machine sees it.
type target struct {
	net string // path of its network namespace
	// node is the first process of a node as the lab numbers it; commands then
	// run in its mount, process and host name namespaces, too.
	node int
	// pod is the first process of a container as its node numbers it; commands
	// then run in its namespaces and, on the small level, in its root.
	pod int
}

// Machine is where the API server runs; it reaches nodes and pods.
func (l *Lab) Machine() *Place {
	return &Place{lab: l, name: "machine", Addresses: layout.Machine().List(l.families), find: func() (target, error) {
		return target{net: fmt.Sprintf("/proc/%d/ns/net", l.first.pid)}, nil
	}}
}

// Outside is a client that is no part of the cluster. It reaches nodes, not pods.
func (l *Lab) Outside() *Place {
	return &Place{lab: l, name: "outside", Addresses: layout.Outside().List(l.families), find: func() (target, error) {
		status, err := l.Status()
		return target{net: l.inside(status.Outside)}, err
	}}
}

// Node is node I. A node has another place after each boot.
func (l *Lab) Node(i int) *Place {
	return &Place{lab: l, name: layout.NodeName(i), Addresses: layout.Node(i).List(l.families), find: func() (target, error) {
		status, err := l.Status()
		if err != nil {
			return target{}, err
		}
		pid, ok := status.Nodes[i]
		if !ok {
			return target{}, fmt.Errorf("%s does not run", layout.NodeName(i))
		}
		return target{net: l.inside(fmt.Sprintf("/proc/%d/ns/net", pid)), node: pid}, nil
	}}
}

// Pod is a running pod: commands run in the named container of it, the first one if
// the name is empty. It is the place of the pod as it is now: a pod of the same
// name that is made later is another one. On the full level commands find the files of
// the node: those of an image may be no more than the one program it runs.
func (l *Lab) Pod(ctx context.Context, namespace, name, container string) (*Place, error) {
	out, err := l.Kubectl(ctx, "get", "pod", "-n", namespace, name, "-o", "json")
	if err != nil {
		return nil, err
	}
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(out), &pod); err != nil {
		return nil, err
	}
	var node int
	if _, err := fmt.Sscanf(pod.Spec.NodeName, "node%d", &node); err != nil {
		return nil, fmt.Errorf("pod %s/%s is on no node of the lab: %q", namespace, name, pod.Spec.NodeName)
	}
	container = orDefault(container, pod.Spec.Containers[0].Name)
	number := l.fakeNumber
	if l.full {
		number = l.fullNumber
	}
	p := &Place{lab: l, name: namespace + "/" + name, find: func() (target, error) {
		at, err := l.Node(node).find()
		if err != nil {
			return at, err
		}
		at.pod, err = number(context.WithoutCancel(ctx), node, string(pod.UID), container)
		at.net = l.inside(fmt.Sprintf("/proc/%d/root/proc/%d/ns/net", at.node, at.pod))
		return at, err
	}}
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, err
		}
		p.Addresses = append(p.Addresses, addr)
	}
	return p, nil
}

// fakeNumber is the first process of a container of the small level, as its node numbers
// it.
func (l *Lab) fakeNumber(_ context.Context, node int, pod, container string) (int, error) {
	content, err := os.ReadFile(filepath.Join(l.dir, layout.NodeName(node), "pods", pod, "pids", container))
	if err != nil {
		return 0, fmt.Errorf("container does not run: %w", err)
	}
	return strconv.Atoi(string(content))
}

// fullNumber is that of a container of the full level.
func (l *Lab) fullNumber(ctx context.Context, node int, pod, container string) (int, error) {
	ctr := func(args ...string) (string, error) {
		return l.Node(node).Output(ctx, "ctr", append([]string{"--namespace", machine.PodImages}, args...)...)
	}
	which := fmt.Sprintf(`labels."io.kubernetes.pod.uid"==%s,labels."io.kubernetes.container.name"==%s`, pod, container)
	ids, err := ctr("containers", "list", "--quiet", which)
	if err != nil {
		return 0, err
	}
	tasks, err := ctr("tasks", "list")
	if err != nil {
		return 0, err
	}
	for task := range strings.Lines(tasks) {
		fields := strings.Fields(task) // TASK PID STATUS
		if len(fields) == 3 && fields[2] == "RUNNING" && slices.Contains(strings.Fields(ids), fields[0]) {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("container %s does not run", container)
}

// inside is a path of the lab as the machine sees it.
func (l *Lab) inside(path string) string { return fmt.Sprintf("/proc/%d/root%s", l.first.pid, path) }

// Command returns a command that runs at the place, with KUBECONFIG and the lab's
// programs (kubectl) in its path. On a node and in a pod it runs in all of the
// namespaces there, elsewhere only in the network.
func (p *Place) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	at, err := p.find()
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	enter := []string{"--net=" + at.net, "--"}
	lab, node := []string{"-t", fmt.Sprint(p.lab.first.pid), "-m", "-p", "--"}, []string{"nsenter", "-t", fmt.Sprint(at.node), "-m", "-n", "-p", "-u", "-i"}
	if p.lab.full {
		node = append(node, "-C")
	}
	switch {
	case at.pod > 0 && p.lab.full:
		enter = slices.Concat(lab, node, []string{"--", "nsenter", "-t", fmt.Sprint(at.pod), "-n", "-u", "-i", "--"})
	case at.pod > 0:
		enter = slices.Concat(lab, node, []string{"--", "nsenter", "-t", fmt.Sprint(at.pod), "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--"})
	case at.node > 0:
		enter = slices.Concat(lab, node, []string{"--wdns=" + dir, "--"})
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, name), args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.lab.Kubeconfig(), "PATH="+p.lab.bin+":"+os.Getenv("PATH"), "PORTWAY_LAB_PLACE="+p.name)
	return cmd, nil
}

// Output runs a command at the place and returns what it prints; the error holds
// what it prints on standard error.
func (p *Place) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := p.Command(ctx, name, args...)
	if err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s on %s: %w: %s", name, p.name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// Do calls f on a thread that is in the network of the place: sockets that f opens
// stay there.
func (p *Place) Do(f func() error) error {
	at, err := p.find()
	if err != nil {
		return err
	}
	place, err := netns.Open(at.net)
	if err != nil {
		return err
	}
	defer func() { _ = place.Close() }()
	return place.Do(f)
}

// Dial connects from the place. The address must be numeric.
func (p *Place) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := p.Do(func() error {
		var err error
		// A fallback would dial from another goroutine, that is, another thread.
		dialer := net.Dialer{Timeout: dialLimit, FallbackDelay: -1}
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Kubectl runs kubectl as the administrator.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.Machine().Output(ctx, filepath.Join(l.bin, "kubectl"), args...)
}

// Apply applies manifests.
func (l *Lab) Apply(ctx context.Context, manifests string) error {
	cmd, err := l.Machine().Command(ctx, filepath.Join(l.bin, "kubectl"), "apply", "--server-side", "-f", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply: %w: %s", err, out)
	}
	return nil
}

// PodLog returns what a container has printed so far, over all its restarts; on the full
// level over those whose logs the kubelet has kept.
func (l *Lab) PodLog(namespace, pod, container string) (string, error) {
	if l.full {
		return l.kubeletLog(namespace, pod, container)
	}
	name := namespace + "_" + pod + "_" + container + ".log"
	found, err := filepath.Glob(filepath.Join(l.dir, "node*", "logs", name))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no log %s: %w", name, errors.Join(fs.ErrNotExist, err))
	}
	var all strings.Builder
	for _, file := range found {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all.Write(content)
	}
	return all.String(), nil
}
