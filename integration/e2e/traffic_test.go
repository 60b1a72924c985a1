package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/lab"
)

// UDP asks from one port after another: a packet from a port that asked before is of
// the flow it was then, and may be bound for a pod that is gone.
const firstPort, ports = 10000, 50000

var lastPort atomic.Int64

// ask opens one TCP connection from outside the cluster, or sends one UDP packet,
// and returns the name of the pod that answers.
func (c *Cluster) ask(ctx context.Context, network, address string) (pod string, err error) {
	return askFrom(ctx, c.Outside(), network, address)
}

// askFrom does so from somewhere else.
func askFrom(ctx context.Context, from *lab.Place, network, address string) (pod string, err error) {
	outer := from.Do(func() error {
		pod, err = askHere(ctx, network, address)
		return nil
	})
	return pod, errors.Join(outer, err)
}

// askHere does the same from the network of the calling thread.
func askHere(ctx context.Context, network, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, replyLimit)
	defer cancel()
	// A fallback would dial from another goroutine, that is, another thread.
	dialer := net.Dialer{FallbackDelay: -1}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{Port: firstPort + int(lastPort.Add(1))%ports}
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(replyLimit)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("x")); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", address, err)
	}
	pod, _, _ := strings.Cut(line, " ")
	return strings.TrimPrefix(pod, "pod="), nil
}

// reach waits until a pod of the Deployment answers at the address.
func (c *Cluster) reach(t *testing.T, network, address, deployment string) {
	t.Helper()
	eventually(t, settle, func() error {
		pod, err := c.ask(t.Context(), network, address)
		if err != nil {
			return err
		}
		return only(map[string]int{pod: 1}, deployment)
	})
}

// refuses returns an error unless the address refuses connections at once, rather
// than after a time-out.
func (c *Cluster) refuses(ctx context.Context, address string) error {
	started := time.Now()
	pod, err := c.ask(ctx, "tcp", address)
	took := time.Since(started)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %s answered", address, pod)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: not refused: %w", address, err)
	case took > time.Second:
		return fmt.Errorf("%s: refused after %s only", address, took)
	}
	return nil
}

// stream asks without pause, from several goroutines, until it is stopped.
type stream struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	answers  map[string]int
	failures []error
}

// answered returns how often who has answered so far.
func (s *stream) answered() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.answers)
}

const (
	askers   = 4
	askPause = 10 * time.Millisecond
)

func (c *Cluster) stream(t *testing.T, network, address string) *stream {
	t.Helper()
	return streamFrom(t, c.Outside(), askers, network, address)
}

// streamFrom asks from somewhere else.
func streamFrom(t *testing.T, from *lab.Place, askers int, network, address string) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &stream{stop: stop, answers: map[string]int{}}
	for range askers {
		s.done.Go(func() {
			if err := from.Do(func() error { s.run(ctx, network, address); return nil }); err != nil {
				s.record("", err)
			}
		})
	}
	t.Cleanup(func() { s.stop(); s.done.Wait() })
	return s
}

func (s *stream) run(ctx context.Context, network, address string) {
	for ctx.Err() == nil {
		s.record(askHere(context.WithoutCancel(ctx), network, address))
		time.Sleep(askPause)
	}
}

func (s *stream) record(pod string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failures = append(s.failures, fmt.Errorf("%s: %w", time.Now().Format("15:04:05.000"), err))
		return
	}
	s.answers[pod]++
}

// failed returns how many failed so far.
func (s *stream) failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.failures)
}

// count returns how many were answered so far.
func (s *stream) count() (total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.answers {
		total += n
	}
	return total
}

// servedOrRefused ends the stream and fails the test if a connection was neither
// served nor refused.
func (s *stream) servedOrRefused(t *testing.T) {
	t.Helper()
	s.stop()
	s.done.Wait()
	for _, err := range s.failures {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("neither served nor refused: %v", err)
			break
		}
	}
	t.Logf("%d refused, served by pod %v", len(s.failures), s.answers)
}

// whole ends the stream and fails the test if one of its connections failed.
func (s *stream) whole(t *testing.T) {
	t.Helper()
	s.stop()
	s.done.Wait()
	total := s.count()
	if len(s.failures) > 0 {
		t.Errorf("%d of %d failed, first: %v", len(s.failures), total+len(s.failures), s.failures[0])
	}
	if total == 0 {
		t.Error("nothing was answered")
	}
	t.Logf("%d connections, by pod %v", total, s.answers)
}
