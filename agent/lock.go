package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// lockName is an abstract unix socket, which belongs to the network namespace, as
// the rules do, and goes with its process, however that ends (unix(7)).
const lockName = "@portway-agent"

// lock makes sure that nobody else works in the network namespace, unless that is what is to
// be waited for (--cleanup-after): who waits must not keep the agents out.
func (o *Options) lock(ctx context.Context) (io.Closer, error) {
	if o.CleanupAfter != "" {
		return io.NopCloser(nil), nil
	}
	return lock(ctx)
}

// lock makes sure that one agent works in a network namespace: two would undo each
// other's changes without a word. Closing it lets the next one in.
func lock(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", lockName)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errors.New("another portway-agent works in this network namespace; stop it first")
	case err != nil:
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	return l, nil
}
