package traffic

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Held is what connections took that were open at the same time.
type Held struct {
	// Answered is the number of those that still carried a byte there and back, when all were open.
	Answered int
	// Memory is what the machine's kernel and the proxies hold more with them than before, in
	// bytes: sockets of the client and of the backend, which all subjects have, included.
	Memory int
}

// Hold opens connections, from many addresses of the client, asks on each of them, and resets
// them. Workers hold them, as many as files can be open in one process: TestMain starts Work.
func Hold(l *Loaded, count int) (_ Held, err error) {
	each, err := perProcess(0)
	if err != nil {
		return Held{}, err
	}
	var workers []*worker
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.end())
		}
		err = errors.Join(err, l.Forget())
	}()
	before, err := memory(l.Proxies)
	if err != nil {
		return Held{}, err
	}
	for first := 0; first < count; first += each {
		w, err := l.startWorker(first, min(each, count-first))
		if err != nil {
			return Held{}, err
		}
		workers = append(workers, w)
		if _, err := w.answer(); err != nil {
			return Held{}, fmt.Errorf("%s: %w", l.Name, err)
		}
	}
	after, err := memory(l.Proxies)
	if err != nil {
		return Held{}, err
	}
	h := Held{Memory: after - before}
	for _, w := range workers {
		n, err := w.ask()
		h.Answered += n
		if err != nil {
			return h, fmt.Errorf("%s: after %d answers: %w", l.Name, h.Answered, err)
		}
	}
	return h, nil
}

// ask sends a byte on each connection of a batch, there and back.
func (p pair) ask() error {
	for _, fd := range p.clients {
		if _, err := unix.Write(fd, []byte{1}); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
	}
	for _, fd := range p.servers {
		if err := read(fd, 1); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if _, err := unix.Write(fd, []byte{1}); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	for _, fd := range p.clients {
		if err := read(fd, 1); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
	return nil
}

// perProcess is how many connections a process can hold both ends of, a multiple of the
// batch; besides it has as many other files open.
func perProcess(others int) (int, error) {
	const own = 500
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return (int(min(limit.Max, 1<<20)) - own - others) / 2 / batch * batch, err
}

// trackable returns an *Unavailable error if the kernel follows fewer flows than count in a
// namespace; the limit is the whole machine's.
func trackable(count int) error {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && limit < count {
		err = &Unavailable{fmt.Sprintf("net.netfilter.nf_conntrack_max is %d", limit)}
	}
	return err
}

// memory is what the kernel's caches and the proxies hold, in bytes, once nothing is given back
// any more: objects of connections before are freed after a while.
func memory(proxies []int) (int, error) {
	const step, calm = 100 * time.Millisecond, 1 << 20
	last, err := held(proxies)
	for range 100 {
		if err != nil {
			return 0, err
		}
		time.Sleep(step)
		var now int
		if now, err = held(proxies); err == nil && max(now-last, last-now) < calm {
			return now, nil
		}
		last = now
	}
	return last, err
}

// caches of the kernel that a connection takes something of: the entry that is followed and
// what belongs to it, and sockets. Those of everything that a machine does besides, such as
// dentries, would drown them.
var caches = []string{"nf_conntrack", "kmalloc-", "TCP", "sock_inode_cache", "filp", "eventpoll_epi"}

func held(proxies []int) (int, error) {
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if !slices.ContainsFunc(caches, func(c string) bool {
			return fields[0] == c || strings.HasSuffix(c, "-") && strings.HasPrefix(fields[0], c)
		}) {
			continue
		}
		objects, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, err
		}
		size, err := strconv.Atoi(fields[3])
		if err != nil {
			return 0, err
		}
		sum += objects * size
	}
	for _, pid := range proxies {
		n, err := resident(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// resident is the memory of a process, in bytes.
func resident(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var n int
	if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
		return 0, fmt.Errorf("VmRSS of process %d: %w", pid, err)
	}
	return n << 10, nil
}
