package control

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// monitor tells when the kernel commits a batch of nf_tables in a namespace.
type monitor struct {
	commits chan time.Time

	mu    sync.Mutex // guards everything below
	marks map[netip.Addr]time.Time
	lags  []time.Duration // of marks that were seen
}

// startMonitor listens until the end of the test.
func startMonitor(t *testing.T, in *netns.Namespace) *monitor {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: in.Handle()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.SetReadBuffer(64<<20), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		t.Fatal(err)
	}
	m := &monitor{commits: make(chan time.Time, 1<<16), marks: map[netip.Addr]time.Time{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.run(conn, func(err error) { t.Errorf("listen to nf_tables: %v", err) })
	}()
	t.Cleanup(func() {
		if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		<-done
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *monitor) run(conn *netlink.Conn, failed func(error)) {
	const generation = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	for {
		messages, err := conn.Receive()
		at := time.Now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			failed(err)
			return
		}
		for _, message := range messages {
			if message.Header.Type == generation {
				select {
				case m.commits <- at:
				default: // nobody waits for them
				}
				continue
			}
			m.look(message.Data, at)
		}
	}
}

// mark has the monitor tell how long it takes from now until an element with an address is
// committed, which no other element has.
func (m *monitor) mark(addr netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks[addr] = time.Now()
}

// look finds marks in a message.
func (m *monitor) look(message []byte, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for addr, since := range m.marks {
		if bytes.Contains(message, addr.AsSlice()) {
			m.lags = append(m.lags, at.Sub(since))
			delete(m.marks, addr)
		}
	}
}

// lagging returns how long the marks took that were seen, and how many were not.
func (m *monitor) lagging() ([]time.Duration, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lags), len(m.marks)
}

// await returns when the next commit was seen.
func (m *monitor) await(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-m.commits:
		return at
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is committed")
		return time.Time{}
	}
}

// drain forgets the commits seen so far.
func (m *monitor) drain() {
	for len(m.commits) > 0 {
		<-m.commits
	}
}
