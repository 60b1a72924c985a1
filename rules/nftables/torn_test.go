package nftables

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/portway-dev/portway/rules"
)

// An element that is listed twice tells that another one is missing.
func TestTornListingIsNoticed(t *testing.T) {
	_, c := inNamespace(t)
	all := maps.Clone(topologies["udp-refused-share"])
	maps.Copy(all, topologies["local-hairpin"])
	maps.Copy(all, topologies["affinity"]) // has many slots
	mustProgram(t, newProgrammer(t, c), stateOf(all).WithExclusive([]netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}))
	q, err := openQuery(c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	for id := range setCount {
		if id.kind() == kindRefused {
			continue // of intervals, which no set that is resized holds
		}
		r := reader{kernel: newKernel(), slots: make(map[string]rules.Slot)}
		n := 0
		for element, err := range q.elements(id.String()) {
			if err != nil {
				t.Fatal(err)
			}
			r.torn = false
			if !r.read(id, element) || r.torn {
				t.Errorf("%s: an element is foreign, or known", id)
			}
			if r.read(id, element); !r.torn {
				t.Errorf("%s: an element that is listed twice is not noticed", id)
			}
			n++
		}
		if n == 0 {
			t.Errorf("%s: no elements", id)
		}
	}
}

func TestTornListingIsReadAgain(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		torn, reads int
		err         error
		want        bool
	}{
		{torn: 0, reads: 1, want: true}, {torn: 2, reads: 3, want: true}, {torn: maxReads, reads: maxReads}, {torn: 0, reads: 1, err: broken},
	} {
		reads := 0
		err := untorn(func() (bool, error) {
			reads++
			return reads <= test.torn, test.err
		})
		if (err == nil) != test.want || reads != test.reads || test.err != nil && !errors.Is(err, test.err) {
			t.Errorf("%+v: %d reads, %v", test, reads, err)
		}
	}
}
