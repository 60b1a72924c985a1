package layer2

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch tells that interfaces or their addresses have changed, not how.
type watch struct {
	conn    *netlink.Conn
	changed chan struct{}
	done    chan struct{}
}

// watchLinks watches the namespace of the calling thread.
func watchLinks() (*watch, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR} {
		if err := conn.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("watch interfaces: %w", err), conn.Close())
		}
	}
	w := &watch{conn: conn, changed: make(chan struct{}, 1), done: make(chan struct{})}
	go w.receive()
	return w, nil
}

func (w *watch) receive() {
	defer close(w.done)
	for {
		_, err := w.conn.Receive()
		// Messages were lost when there were too many: that, too, is a change.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		signal(w.changed)
	}
}

func (w *watch) close() error {
	err := w.conn.Close()
	<-w.done
	return err
}

// signal wakes who waits for a channel of one element, now or later.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
