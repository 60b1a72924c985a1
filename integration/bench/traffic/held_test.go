package traffic

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPerProcess(t *testing.T) {
	for _, test := range []struct{ files, others, want int }{
		{20_000, 0, 9744},     // 9750, and whole batches of it
		{20_000, 1000, 9248},  // a proxy with 1 000 listeners
		{1 << 20, 0, 524_032}, // the kernel's own limit
		{500, 0, 0},           // nothing is left
		{100, 1000, 0},        // nor is it here
		{2*batch + 500, 0, batch},
	} {
		if got := perProcess(test.files, test.others); got != test.want {
			t.Errorf("%d files, %d for others: %d connections, want %d", test.files, test.others, got, test.want)
		}
	}
}

// TestCanHold: a proxy that cannot hold as many is not measured with fewer.
func TestCanHold(t *testing.T) {
	for _, test := range []struct {
		name  string
		l     Loaded
		holds bool
	}{
		{"the kernel", Loaded{}, true},
		{"a proxy with as many", Loaded{Subject: Subject{Proxy: true}, Most: 1000}, true},
		{"a proxy with fewer", Loaded{Subject: Subject{Proxy: true}, Most: 999}, false},
	} {
		err := test.l.canHold(1000)
		if missing := (*Unavailable)(nil); (err == nil) != test.holds || err != nil && !errors.As(err, &missing) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestFiles: the limit is what the process has from then on, and as high as it may be.
func TestFiles(t *testing.T) {
	got, err := files()
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if uint64(got) != limit.Cur || limit.Cur != limit.Max {
		t.Errorf("%d files; the limit is %d, and %d at most", got, limit.Cur, limit.Max)
	}
}
