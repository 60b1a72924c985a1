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

// during adds to the sums what is counted while a function runs. nil Counters count nothing.
func (c *Counters) during(sums *[]uint64, do func() error) error {
	if c == nil {
		return do()
	}
	before, err := c.Read()
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := c.Read()
	if err != nil {
		return err
	}
	if *sums == nil {
		*sums = make([]uint64, len(after))
	}
	for i := range after {
		(*sums)[i] += after[i] - before[i]
	}
	return nil
}

// note adds a subject's round to the events, per flow.
func (c *Counters) note(events map[string]map[string][]float64, subject string, sums []uint64, flows int) {
	for i, sum := range sums {
		event := hardwareEvents[i]
		if events[event] == nil {
			events[event] = map[string][]float64{}
		}
		events[event][subject] = append(events[event][subject], float64(sum)/float64(flows))
	}
}

// Close ends the counting.
func (c *Counters) Close() error {
	var err error
	if c == nil {
		return nil
	}
	for _, fd := range c.fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}
