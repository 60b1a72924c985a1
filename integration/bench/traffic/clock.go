package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Clock counts the processor time, in ns, of one processor's part in the traffic: of the
// calling thread, in whose system calls packets go all the way through the namespaces (a
// veth hands them on in the softirq of the sender), of the kernel's thread that takes over
// softirqs when they get many, and of the proxies that take part. It stands still when
// others run.
//
// Time in hard interrupts, such as the timer's, is counted with what they interrupt; the
// kernel's own bookkeeping on worker threads, such as the deletion of expired flows, is not.
type Clock struct {
	CPU     int
	softirq int // clock id
	before  unix.CPUSet
	signals unix.Sigset_t // that were blocked before
}

// NewClock moves the calling goroutine's thread to the last processor it may use, and keeps
// signals from it, with which Go's scheduler would interrupt system calls, until Close.
func NewClock() (*Clock, error) {
	c := &Clock{}
	runtime.LockOSThread()
	if err := c.pin(); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return c, nil
}

func (c *Clock) pin() error {
	if err := unix.SchedGetaffinity(0, &c.before); err != nil {
		return err
	}
	for cpu := range len(c.before) * 64 {
		if c.before.IsSet(cpu) {
			c.CPU = cpu
		}
	}
	pid, err := find(fmt.Sprintf("ksoftirqd/%d", c.CPU))
	if err != nil {
		return err
	}
	c.softirq = clockOf(pid)
	var only unix.CPUSet
	only.Set(c.CPU)
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	return errors.Join(unix.SchedSetaffinity(0, &only), unix.PthreadSigmask(unix.SIG_BLOCK, &all, &c.signals))
}

// Close lets the thread go.
func (c *Clock) Close() error {
	defer runtime.UnlockOSThread()
	return errors.Join(unix.PthreadSigmask(unix.SIG_SETMASK, &c.signals, nil), unix.SchedSetaffinity(0, &c.before))
}

// Now reads the clock; proxies are process IDs.
func (c *Clock) Now(proxies ...int) (int64, error) {
	var sum int64
	add := func(clock int) error {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(clock), &t); err != nil {
			return fmt.Errorf("processor time of clock %d: %w", clock, err)
		}
		sum += t.Nano()
		return nil
	}
	errs := []error{add(unix.CLOCK_THREAD_CPUTIME_ID), add(c.softirq)}
	for _, pid := range proxies {
		errs = append(errs, add(clockOf(pid)))
	}
	return sum, errors.Join(errs...)
}

// clockOf is the clock of a process's time on processors: MAKE_PROCESS_CPUCLOCK of the
// kernel with CPUCLOCK_SCHED, what clock_getcpuclockid(3) returns.
func clockOf(pid int) int { return ^pid<<3 | 2 }

// find returns the process with a name.
func find(comm string) (int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has ended
			return 0, err
		}
		if strings.TrimSpace(string(text)) == comm {
			return strconv.Atoi(filepath.Base(filepath.Dir(name)))
		}
	}
	return 0, fmt.Errorf("no process %s is to be seen", comm)
}
