package nftables

import (
	"errors"
	"slices"
	"testing"

	"github.com/portway-dev/portway/rules"
)

// lessOf removes Frontends of benchState.
func lessOf(s *rules.State, numbers ...int) *rules.State {
	changes := make(map[rules.FrontendKey]*rules.Frontend)
	for _, i := range numbers {
		changes[benchKey(i)] = nil
	}
	return s.Apply(changes, nil)
}

func TestResultsNameWhatIsRemoved(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	all := benchState(20)
	program := func(what string, s *rules.State, want ...int) {
		t.Helper()
		results, err := p.Program(t.Context(), s)
		if err != nil && p.fault == nil {
			t.Fatal(err)
		}
		var keys []rules.FrontendKey
		for _, i := range want {
			keys = append(keys, benchKey(i))
		}
		if !slices.Equal(results.Removed, keys) {
			t.Errorf("%s: removed %v, want %v", what, results.Removed, keys)
		}
	}
	restart := func() { p = newProgrammer(t, c) }
	program("loaded", all)
	program("two removed", lessOf(all, 7, 3), 3, 7)
	program("the same again", lessOf(all, 7, 3))
	program("back", all)

	restart()
	program("known to lack some", lessOf(all, 1, 2).AsPartial())
	program("complete, found by adoption", lessOf(all, 1, 2), 1, 2)
	restart()
	program("nothing new", lessOf(all, 1, 2))

	// The answers to a batch are lost: it is told when it is known.
	p.fault = func(int) (error, error) { return nil, errors.New("lost") }
	program("answers lost", lessOf(all, 1, 2, 3))
	p.fault = nil
	program("then read back", lessOf(all, 1, 2, 3), 3)

	// What a stranger deleted is made anew, and told of where it is not wanted any more.
	nft(t, ns, "delete", "table", "inet", "portway")
	program("deleted by a stranger", lessOf(all, 1, 2, 3, 4), 4)
	nft(t, ns, "delete", "table", "inet", "portway")
	p.fault = func(int) (error, error) { return errors.New("refused"), nil }
	program("deleted, and not to be mended", lessOf(all, 1, 2, 3, 4, 5))
	p.fault = nil
	program("mended", lessOf(all, 1, 2, 3, 4, 5), 5)

	// To sweep its slots fails: the listener is gone all the same, once.
	first := p.Stats().Batches
	p.fault = func(n int) (error, error) {
		if n > first {
			return errors.New("no sweep"), nil
		}
		return nil, nil
	}
	program("not swept", lessOf(all, 1, 2, 3, 4, 5, 6), 6)
	p.fault = nil
	program("swept", lessOf(all, 1, 2, 3, 4, 5, 6))
	checkKernel(t, c, lessOf(all, 1, 2, 3, 4, 5, 6))
}
