package netns

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/portway-dev/portway/rules"
)

// site is what a Lab and a Cluster are made of: namespaces and the servers in them.
type site struct {
	servers []*Server
	opened  []*Namespace
}

func (s *site) open(name string) (*Namespace, error) {
	n, err := New(name)
	if err == nil {
		s.opened = append(s.opened, n)
	}
	return n, err
}

// router opens a namespace that forwards.
func (s *site) router(name string) (*Namespace, error) {
	n, err := s.open(name)
	if err != nil {
		return nil, err
	}
	return n, n.Forward()
}

// serve starts a TCP and a UDP server on a port of each address.
func (s *site) serve(n *Namespace, port uint16, addrs ...netip.Addr) error {
	for _, addr := range addrs {
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			server, err := n.Serve(protocol, netip.AddrPortFrom(addr, port))
			if err != nil {
				return err
			}
			s.servers = append(s.servers, server)
		}
	}
	return nil
}

// Close stops the servers and gives up all namespaces.
func (s *site) Close() error {
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	for _, n := range s.opened {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// closeAfter closes the site at the end of a test. All of it is dumped to the
// test's log when the test failed.
func (s *site) closeAfter(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		if tb.Failed() {
			for _, n := range s.opened {
				tb.Log(n.Dump())
			}
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
}
