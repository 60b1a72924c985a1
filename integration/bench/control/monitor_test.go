package control

import (
	"errors"
	"os"
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

	mu       sync.Mutex
	elements int // messages with elements since the last look
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
	m := &monitor{commits: make(chan time.Time, 1<<16)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.run(t, conn)
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

func (m *monitor) run(t *testing.T, conn *netlink.Conn) {
	const generation = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	for {
		messages, err := conn.Receive()
		at := time.Now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			t.Errorf("listen to nf_tables: %v", err)
			return
		}
		for _, message := range messages {
			if message.Header.Type == generation {
				m.commits <- at
				continue
			}
			m.mu.Lock()
			m.elements++
			m.mu.Unlock()
		}
	}
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
