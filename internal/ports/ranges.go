// Package ports reads lists of ports from flags.
package ports

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/portway-dev/portway/topology"
)

// Ranges is a flag value such as "22,2379-2380".
type Ranges []topology.PortRange

// Type names the value in help texts.
func (*Ranges) Type() string { return "ports" }

// String formats the ranges as Set reads them.
func (p *Ranges) String() string {
	parts := make([]string, 0, len(*p))
	for _, r := range *p {
		part := strconv.Itoa(int(r.First))
		if r.Last != r.First {
			part += "-" + strconv.Itoa(int(r.Last))
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// Set replaces the ranges; an empty text means none.
func (p *Ranges) Set(text string) error {
	var ranges []topology.PortRange
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || first > last {
			return fmt.Errorf("%q: must be a port or a range such as 2379-2380", part)
		}
		ranges = append(ranges, topology.PortRange{First: uint16(first), Last: uint16(last)})
	}
	*p = ranges
	return nil
}
