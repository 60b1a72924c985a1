package traffic

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	limit, err := files()
	if err != nil {
		return Held{}, err
	}
	each := perProcess(limit, 0)
	if each == 0 {
		return Held{}, &Unavailable{fmt.Sprintf("a process may have only %d files open here (RLIMIT_NOFILE)", limit)}
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
			return Held{}, err
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
			return h, fmt.Errorf("after %d answers: %w", h.Answered, err)
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

// files is how many files this process, and each that it starts from then on, may have open: as
// many as the kernel lets any process have, where there is the right to raise the limit.
var files = sync.OnceValues(func() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, err
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, err
	}
	if most > limit.Max {
		err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
		if err == nil || !errors.Is(err, unix.EPERM) {
			return int(most), err
		}
	}
	limit.Cur = min(most, limit.Max)
	return int(limit.Cur), unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
})

// perProcess is how many connections a process can hold both ends of that may have a number of
// files open, a multiple of the batch; besides it has as many other files open.
func perProcess(files, others int) int {
	const own = 500
	return max(files-own-others, 0) / 2 / batch * batch
}

// canHold returns an *Unavailable error if a proxy cannot hold as many connections.
func (l *Loaded) canHold(count int) error {
	if !l.Proxy || l.Most >= count {
		return nil
	}
	limit, err := files()
	if err != nil {
		return err
	}
	return &Unavailable{fmt.Sprintf("it needs two files for each connection, and a process may have %d open here (RLIMIT_NOFILE), which this user cannot raise", limit)}
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
