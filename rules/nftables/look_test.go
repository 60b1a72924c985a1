package nftables

import (
	"errors"
	"testing"
)

// A look tells that a Program is due, changes nothing, and costs no more when it did so.
func TestDisturbedIsWhatConcernsUs(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	if p.Disturbed() {
		t.Error("before the first Program: disturbed")
	}
	s := benchState(20)
	for _, stranger := range []struct {
		args []string
		ours bool
	}{
		{[]string{"list", "ruleset"}, false},
		{[]string{"add", "table", "ip", "other"}, false},
		{[]string{"delete", "table", "ip", "other"}, false},
		{[]string{"flush", "ruleset"}, true},
		{[]string{"delete", "table", "inet", "portway"}, true},
		{[]string{"flush", "table", "inet", "portway"}, true},
		{[]string{"flush", "chain", "inet", "portway", "postrouting"}, true},
		{[]string{"insert", "rule", "inet", "portway", "services", "accept"}, true},
	} {
		mustProgram(t, p, s)
		if p.Disturbed() {
			t.Errorf("before %v: disturbed", stranger.args)
		}
		nft(t, ns, stranger.args...)
		for range 2 { // until it is mended
			if p.Disturbed() != stranger.ours {
				t.Errorf("after %v: disturbed is %t", stranger.args, !stranger.ours)
			}
		}
		if results, err := p.Program(t.Context(), s); err != nil || results.Restored != stranger.ours {
			t.Errorf("after %v: %+v (%v)", stranger.args, results, err)
		}
		checkKernel(t, c, s)
	}
	p.fault = func(int) (error, error) { return errors.New("refused"), nil }
	nft(t, ns, "flush", "ruleset")
	if _, err := p.Program(t.Context(), s); err == nil {
		t.Fatal("no error")
	}
	if p.Disturbed() {
		t.Error("the last Program failed: disturbed")
	}
	p.fault = nil
	mustProgram(t, p, s)
	if got := p.Stats(); got.Altered != 3 || got.Vanished != 3 {
		t.Errorf("%+v, want 3 altered and 3 vanished", got)
	}
}

// The ladder, which a look leaves out, is not forgotten by it.
func TestDisturbedLeavesTheLadderToProgram(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	s := benchState(20)
	mustProgram(t, p, s)
	nft(t, ns, "flush", "chain", "inet", "portway", "random-10")
	if p.Disturbed() {
		t.Error("disturbed: a look reads all chains")
	}
	if results, err := p.Program(t.Context(), s); err != nil || !results.Restored {
		t.Errorf("the ladder is not mended: %+v (%v)", results, err)
	}
	checkKernel(t, c, s)
}
