package agent

import (
	"strings"
	"testing"
)

func TestLockLetsOneAgentIn(t *testing.T) {
	first, err := lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(t.Context()); err == nil || !strings.Contains(err.Error(), "another portway-agent") {
		t.Errorf("second lock: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}
