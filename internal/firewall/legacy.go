package firewall

import (
	"hash/maphash"

	"github.com/portway-dev/portway/internal/netfilter"
)

// legacyStamp differs when rules of the tables of iptables-legacy do that matter here.
func legacyStamp(v6 bool) (uint64, error) {
	names, err := netfilter.XTables(v6)
	if err != nil {
		return 0, err
	}
	var stamp maphash.Hash
	stamp.SetSeed(stampSeed)
	found := false
	for _, name := range names {
		if !relevantLegacy(name) {
			continue
		}
		found = true
		t, err := netfilter.ReadXTable(v6, name)
		if err != nil {
			return 0, err
		}
		_, _ = stamp.WriteString(name) // never fails, here and below
		for e, err := range t.Entries() {
			if err != nil {
				return 0, err
			}
			_, _ = stamp.Write(e.Match)
			_, _ = stamp.Write(e.Action)
		}
	}
	if !found {
		return 0, nil
	}
	return stamp.Sum64(), nil
}

func relevantLegacy(table string) bool { return table == "filter" || table == "mangle" }
