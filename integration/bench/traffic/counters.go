package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Counters are events that the hardware of one processor counts, whoever runs there.
type Counters struct{ fds []int }

// Events counted, as perf names them.
var hardwareEvents = []string{"instructions", "cycles"}

var eventConfigs = map[string]uint64{
	"instructions": unix.PERF_COUNT_HW_INSTRUCTIONS,
	"cycles":       unix.PERF_COUNT_HW_CPU_CYCLES,
}

// OpenCounters needs root and hardware that counts; virtual machines often have none, which
// is an *Unavailable error.
func OpenCounters(cpu int) (*Counters, error) {
	c := &Counters{}
	for _, event := range hardwareEvents {
		if err := c.open(cpu, unix.PERF_TYPE_HARDWARE, eventConfigs[event]); err != nil {
			return nil, errors.Join(&Unavailable{fmt.Sprintf("no hardware counter of %s (perf_event_open: %v)", event, err)}, c.Close())
		}
	}
	return c, nil
}

func (c *Counters) open(cpu int, kind uint32, config uint64) error {
	attr := unix.PerfEventAttr{Type: kind, Config: config}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err == nil {
		c.fds = append(c.fds, fd)
	}
	return err
}

// Read returns the counts so far, in the order of hardwareEvents.
func (c *Counters) Read() ([]uint64, error) {
	counts := make([]uint64, len(c.fds))
	for i, fd := range c.fds {
		var value [8]byte
		if _, err := unix.Read(fd, value[:]); err != nil {
			return nil, err
		}
		counts[i] = binary.NativeEndian.Uint64(value[:])
	}
	return counts, nil
}

// Close ends the counting.
func (c *Counters) Close() error {
	var err error
	for _, fd := range c.fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}
