// Portway-demo shows the TCP routing guide of the Gateway API at work: YAML files,
// the agent, the kernel and real connections, in network namespaces that end with
// it. Nothing outside of them is touched and no root is needed. It exits with 1
// when anything is not as the guide says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/portway-dev/portway/internal/netns"
)

// timeLimit bounds the whole demo; it takes a few seconds.
const timeLimit = time.Minute

func main() {
	agent := flag.String("agent", "bin/portway-agent", "`path` of the agent's binary")
	examples := flag.String("examples", "examples", "`directory` of tcp-routing.yaml and tcp-routing-backends.yaml")
	flag.Parse()
	if err := run(*agent, *examples); err != nil {
		fmt.Fprintf(os.Stderr, "\nportway-demo: %v\n", err)
		os.Exit(1)
	}
}

func run(agent, examples string) error {
	if _, err := os.Stat(agent); err != nil {
		return fmt.Errorf("the agent is not built (make build): %w", err)
	}
	if err := netns.Isolate(); err != nil {
		return fmt.Errorf("cannot make network namespaces, which takes root or unprivileged user namespaces: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("not done after %s", timeLimit))
	defer cancel()

	dir, err := os.MkdirTemp("", "portway-demo-")
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, out: newPage(os.Stdout), agentBinary: agent, examples: examples, dir: dir}
	shown := make(chan error, 1)
	go func() { shown <- errors.Join(d.show(), d.close()) }()
	select {
	case err = <-shown:
	case <-ctx.Done():
		// Whatever show waits for: its namespaces and processes end with this one.
		err = context.Cause(ctx)
	}
	return errors.Join(err, os.RemoveAll(dir))
}
