package nftables

import (
	"errors"
	"testing"
)

// TestNothingIsProvenOfATableThatIsGone: what was committed to a table that somebody
// deleted is not claimed while it cannot be put back, at whichever batch that fails.
func TestNothingIsProvenOfATableThatIsGone(t *testing.T) {
	const frontends = 20
	for _, stranger := range [][]string{
		{"delete", "table", "inet", "portway"},
		{"flush", "chain", "inet", "portway", "services"},
	} {
		ns, c := inNamespace(t)
		p := newProgrammer(t, c)
		state := benchState(frontends)
		for from := range 4 {
			mustProgram(t, p, state)
			nft(t, ns, stranger...)
			batches := 0
			p.fault = func(int) (error, error) {
				if batches++; batches > from {
					return errors.New("no buffer space"), nil
				}
				return nil, nil
			}
			for range 2 {
				results, err := p.Program(t.Context(), state)
				if err == nil {
					break // it took fewer batches
				}
				for gateway := range state.Digests() {
					if results.Committed[gateway] != "" && results.Errors[gateway] != nil {
						t.Fatalf("%v, failure after %d batches: %s is claimed: %v", stranger, from, gateway, results.Errors[gateway])
					}
				}
				if from == 0 && len(results.Errors) != frontends {
					t.Fatalf("%v: %d Gateways have an error, want all %d", stranger, len(results.Errors), frontends)
				}
			}
			p.fault = nil
		}
		if results, err := p.Program(t.Context(), state); err != nil || len(results.Committed) != frontends {
			t.Errorf("%v: in the end %d committed, want %d: %v", stranger, len(results.Committed), frontends, err)
		}
	}
}
