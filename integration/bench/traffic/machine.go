package traffic

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine counts the processor time of everybody who takes part in traffic that several
// threads of this process make, on whatever processors.
type Machine struct{ softirqs []int }

// NewMachine finds the kernel's threads that take over softirqs when they get many.
func NewMachine() (*Machine, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	m := &Machine{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), "ksoftirqd/") {
			continue // it has ended, or is another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		m.softirqs = append(m.softirqs, pid)
	}
	if len(m.softirqs) == 0 {
		return nil, errors.New("no ksoftirqd is to be seen")
	}
	return m, nil
}

// Now is the time so far of this process, of softirqs, and of proxies.
func (m *Machine) Now(proxies []int) (time.Duration, error) {
	clocks := []int{unix.CLOCK_PROCESS_CPUTIME_ID}
	for _, pid := range append(proxies[:len(proxies):len(proxies)], m.softirqs...) {
		clocks = append(clocks, clockOf(pid))
	}
	var sum time.Duration
	for _, clock := range clocks {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(clock), &t); err != nil {
			return 0, err
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}
