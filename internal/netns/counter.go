package netns

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// counters are the numbers the kernel keeps per namespace that tell more about a
// flow than its socket does.
type counters struct {
	unreachable int // ICMP and ICMPv6 destination-unreachable messages received
	resent      int // SYNs sent again
}

// watch runs f and adds to a Tally what the counters of the namespace saw
// meanwhile.
func (n *Namespace) watch(tally *Tally, f func() error) error {
	before, err := n.counters()
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	after, err := n.counters()
	tally.Unreachable = after.unreachable - before.unreachable
	tally.Resent = after.resent - before.resent
	return err
}

func (n *Namespace) counters() (counters, error) {
	var files [3]string
	err := n.Do(func() error {
		for i, name := range []string{"snmp", "snmp6", "netstat"} {
			content, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return fmt.Errorf("read counters of %s: %w", n.name, err)
			}
			files[i] = string(content)
		}
		return nil
	})
	return counters{
		unreachable: counter(files[0], "Icmp:", "InDestUnreachs") + counter6(files[1], "Icmp6InDestUnreachs"),
		resent:      counter(files[2], "TcpExt:", "TCPSynRetrans"),
	}, err
}

// counter reads a file of line pairs, a line of names above a line of values; both
// begin with the group.
func counter(file, group, name string) int {
	var names []string
	for line := range strings.Lines(file) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != group {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, field := range fields {
			if i < len(names) && names[i] == name {
				return number(field)
			}
		}
	}
	return 0
}

// counter6 reads a file of lines that hold a name and a value.
func counter6(file, name string) int {
	for line := range strings.Lines(file) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
			return number(fields[1])
		}
	}
	return 0
}

// number reads what the kernel printed, which is a number.
func number(s string) int {
	value, _ := strconv.Atoi(s)
	return value
}
