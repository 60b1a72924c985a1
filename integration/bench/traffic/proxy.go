package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// haproxyHead has what haproxy's manual offers for throughput in TCP mode: what a stream that is
// fast carries goes through a pipe of 1 MB instead of a buffer of the process (splice, which is what
// the options are about). There are as
// many pipes as streams that are fast at a time, and not one for every fourth connection.
const haproxyHead = `global
	nbthread 1
	maxconn %d
	maxpipes 100
	tune.pipesize 1048576
defaults
	mode tcp
%s	timeout connect 10s
	timeout client 1h
	timeout server 1h
`

func (l *Loaded) haproxy() error { return l.haproxyWith("splice-auto") }

// forThroughput are the proxies as one would set them for that, which is what they are measured for.
// haproxy's own heuristic, splice-auto, was seen to begin late, or not at all; a connection that is
// held takes nginx six times the memory.
func forThroughput() []Subject {
	return []Subject{
		{
			Name: "haproxy, splice always", Proxy: true,
			Note: "As haproxy, with splice-request and splice-response instead of splice-auto.",
			load: func(l *Loaded) error { return l.haproxyWith("splice-request", "splice-response") },
		},
		{
			Name: "nginx stream, buffers of 64 kB", Proxy: true,
			Note: "As nginx stream, with proxy_buffer_size 64k.",
			load: func(l *Loaded) error { return l.nginxWith("64k") },
		},
	}
}

func (l *Loaded) haproxyWith(options ...string) error {
	path, err := lookPath("haproxy", "hack/deps.sh bench")
	if err != nil {
		return err
	}
	if l.Most, err = l.proxied(); err != nil {
		return err
	}
	var config, lines strings.Builder
	for _, option := range options {
		fmt.Fprintf(&lines, "\toption %s\n", option)
	}
	fmt.Fprintf(&config, haproxyHead, l.Most, lines.String())
	for i := range l.Listeners {
		fmt.Fprintf(&config, "listen l%d\n\tbind %s\n", i, l.Listener(i))
		for n := range l.Endpoints {
			fmt.Fprintf(&config, "\tserver s%d %s\n", n, l.Endpoint(i, n))
		}
	}
	file := filepath.Join(l.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return err
	}
	return l.proxy(path, "-q", "-db", "-f", file)
}

// nginxHead has one process, so that neither reuseport nor accept_mutex is of use.
const nginxHead = `%[1]sdaemon off;
master_process off;
pid %[2]s;
error_log stderr crit;
worker_rlimit_nofile %[3]d;
events { worker_connections %[3]d; multi_accept on; use epoll; }
stream {
	access_log off;
	proxy_timeout 1h;
	proxy_buffer_size %[4]s;
`

// nginxModules are where distributions keep what they do not build in.
var nginxModules = []string{"/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"}

func (l *Loaded) nginx() error { return l.nginxWith("16k") }

func (l *Loaded) nginxWith(buffers string) error {
	path, err := lookPath("nginx", "hack/deps.sh bench")
	if err != nil {
		return err
	}
	load := ""
	for _, module := range nginxModules {
		if _, err := os.Stat(module); err == nil {
			load = "load_module " + module + ";\n"
		}
	}
	var config strings.Builder
	if l.Most, err = l.proxied(); err != nil {
		return err
	}
	fmt.Fprintf(&config, nginxHead, load, filepath.Join(l.dir, "pid"), 2*l.Most+l.Listeners+100, buffers)
	for i := range l.Listeners {
		fmt.Fprintf(&config, "\tupstream u%d {\n", i)
		for n := range l.Endpoints {
			fmt.Fprintf(&config, "\t\tserver %s max_fails=0;\n", l.Endpoint(i, n))
		}
		fmt.Fprintf(&config, "\t}\n\tserver { listen %s; proxy_pass u%d; }\n", l.Listener(i), i)
	}
	config.WriteString("}\n")
	file := filepath.Join(l.dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return err
	}
	return l.proxy(path, "-p", l.dir, "-e", "stderr", "-c", file)
}

// proxied is how many connections a proxy is told to hold at most: it has two sockets of each,
// and one of every listener.
func (s Size) proxied() (int, error) {
	limit, err := files()
	return min(perProcess(limit, s.Listeners), 110_000), err
}

// startLimit is how long a proxy may take to read its configuration.
const startLimit = 5 * time.Minute

// proxy runs a proxy on the processor of the measurement and returns when it listens at
// the last listener.
func (l *Loaded) proxy(name string, args ...string) error {
	// taskset becomes the proxy, with the same process ID.
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(l.cpu), name}, args...)...)
	process, err := l.Node.Run(cmd)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() error {
		process.Kill()
		if said := process.Stderr(); said != "" {
			fmt.Printf("%s has said: %s\n", l.Name, said)
		}
		return nil
	})
	l.Proxies = []int{cmd.Process.Pid}
	last := l.Listener(l.Listeners - 1)
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		select {
		case <-process.Done():
			return fmt.Errorf("%s has ended: %s", filepath.Base(name), process.Stderr())
		case <-time.After(50 * time.Millisecond):
		}
		err := l.Node.Do(func() error { return bind(last) })
		if errors.Is(err, unix.EADDRINUSE) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not listen at %s after %s: %s", filepath.Base(name), last, startLimit, process.Stderr())
}

// bind tries to take an address as proxies do, which is in nobody's way as long as nobody
// listens there; to connect would be.
func bind(a netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(a)), unix.Close(fd))
}
