package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2/ktesting"

	"github.com/portway-dev/portway/internal/flowtable"
)

type fakeFlowtable struct {
	err             error
	ensured, remove int
}

func (f *fakeFlowtable) Ensure() (bool, error) {
	f.ensured++
	return f.ensured == 1, f.err
}

func (f *fakeFlowtable) Remove() error {
	f.remove++
	return f.err
}

func TestShortcutNotAskedFor(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	table := &fakeFlowtable{err: errors.New("try again")}
	s := &shortcut{table: table}
	if err := s.pass(ctx, false); !errors.Is(err, table.err) {
		t.Errorf("a failure was kept: %v", err)
	}
	table.err = nil
	for range 2 {
		if err := s.pass(ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]int{0, 2}, []int{table.ensured, table.remove}); diff != "" {
		t.Errorf("ensured and removed (-want +got):\n%s", diff)
	}
}

func TestShortcutTellsWhatTheKernelLacks(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	table, moved := &fakeFlowtable{err: &flowtable.UnableError{Err: unix.ENOENT}}, 0
	s := &shortcut{table: table, wanted: true, moved: func() { moved++ }}
	for range 2 {
		if err := s.pass(ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(s.limits(), "\n"); moved != 1 || !strings.HasPrefix(got, "--flowtable is of no effect, and flows go the long way: the kernel has no flowtables") {
		t.Errorf("limits, told %d times: %q", moved, got)
	}
	table.err = nil // somebody loaded the module
	if err := s.pass(ctx, false); err != nil {
		t.Fatal(err)
	}
	if moved != 2 || len(s.limits()) > 0 {
		t.Errorf("limits, told %d times: %q", moved, s.limits())
	}
}
