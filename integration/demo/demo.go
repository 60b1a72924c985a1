package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/portway-dev/portway/internal/netns"
)

const (
	routing  = "tcp-routing.yaml"
	backends = "tcp-routing-backends.yaml"
	podPort  = 6000
	closed   = 8100 // a port that no listener has

	// readyTimeout bounds what takes milliseconds: a start, an edit.
	readyTimeout = 10 * time.Second
)

// The pods of tcp-routing-backends.yaml.
var pods = []struct {
	netns.PodSpec
	service string
}{
	{netns.PodSpec{Name: "foo-1", Number: 10}, "my-foo-service"},
	{netns.PodSpec{Name: "foo-2", Number: 11}, "my-foo-service"},
	{netns.PodSpec{Name: "bar-1", Number: 20}, "my-bar-service"},
}

// demo is one run: a lab, the agent on its node, and what is printed about them.
type demo struct {
	ctx         context.Context // of the run; the demo has no other
	out         *page
	agentBinary string
	examples    string
	dir         string // holds copies of the examples and the statuses

	lab   *netns.Lab     // nil before network
	agent *netns.Process // nil before startAgent
}

// show takes the steps in order and stops at the first that goes wrong.
func (d *demo) show() error {
	d.out.title("Portway demo: the TCP routing guide of the Gateway API, in the kernel")
	start := time.Now()
	for _, step := range []func() error{
		d.network, d.startAgent, d.connect, d.statuses, d.table, d.edit, d.outlive, d.cleanup,
	} {
		if err := errors.Join(d.ctx.Err(), step()); err != nil {
			if d.agent != nil {
				err = fmt.Errorf("%w\n\nThe agent printed:\n%s%s", err, d.agent.Stdout(), d.agent.Stderr())
			}
			return err
		}
	}
	d.out.title(fmt.Sprintf("\nAll as expected, in %.1f s.", time.Since(start).Seconds()))
	return nil
}

func (d *demo) close() error {
	if d.agent != nil {
		d.agent.Kill()
	}
	if d.lab != nil {
		return d.lab.Close()
	}
	return nil
}

func (d *demo) network() (err error) {
	d.out.heading("A network: a client, a node and three pods")
	d.out.aside("Each is a network namespace of its own; nothing outside of them is touched.")
	specs := make([]netns.PodSpec, 0, len(pods))
	for _, pod := range pods {
		specs = append(specs, pod.PodSpec)
	}
	if d.lab, err = netns.NewLab(specs...); err != nil {
		return err
	}
	if err := d.lab.Serve(podPort); err != nil {
		return err
	}
	left := fmt.Sprintf("client %s ─── node %s ", netns.ClientAddr4, netns.NodeAddr4)
	for i, pod := range pods {
		margin, branch := strings.Repeat(" ", len([]rune(left))), "├─"
		switch i {
		case 0:
			margin, branch = left, "┬─"
		case len(pods) - 1:
			branch = "└─"
		}
		d.out.say("%s%s %s  %s:%d  %s", margin, branch, pod.Name, d.lab.Pods[i].Addr4, podPort, pod.service)
	}
	return nil
}

// agentCommand is the agent run with the copies of the examples as its directory.
func (d *demo) agentCommand(args ...string) (*exec.Cmd, error) {
	binary, err := filepath.Abs(d.agentBinary)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(d.ctx, binary, args...)
	cmd.Dir = d.dir
	d.out.say("$ portway-agent %s", strings.ReplaceAll(strings.Join(args, " "), " --", " \\\n       --"))
	return cmd, nil
}

func (d *demo) startAgent() error {
	d.out.heading("The agent, on the node")
	d.out.aside("%s is the guide's manifest word for word;", routing)
	d.out.aside("%s adds a GatewayClass, the Services and their endpoints.", backends)
	d.out.say("")
	for _, name := range []string{routing, backends} {
		content, err := os.ReadFile(filepath.Join(d.examples, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(d.dir, name), content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("copy the examples: %w", err)
		}
	}
	cmd, err := d.agentCommand("--manifests", routing, "--manifests", backends,
		"--node-name", "demo-node", "--node-address", netns.NodeAddr4.String(), "--status-out", statusFile)
	if err != nil {
		return err
	}
	start := time.Now()
	if d.agent, err = d.lab.Node.Run(cmd); err != nil {
		return err
	}
	for _, want := range []struct {
		port uint16
		pods string
	}{{8080, "foo-"}, {8090, "bar-"}} {
		if err := d.wait("the agent serves the guide", func() (bool, error) {
			return d.answeredBy(want.port, want.pods)
		}); err != nil {
			return err
		}
	}
	d.out.good("both listeners answer %d ms after the start", time.Since(start).Milliseconds())
	return nil
}

// wait polls until a condition holds, the agent ends or time is up.
func (d *demo) wait(what string, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(d.ctx, readyTimeout, fmt.Errorf("waited %s in vain until %s", readyTimeout, what))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.agent.Done():
			return fmt.Errorf("waiting until %s: the agent has ended", what)
		case <-tick.C:
		}
	}
}

func gateway(port uint16) netip.AddrPort { return netip.AddrPortFrom(netns.NodeAddr4, port) }

// answeredBy opens one connection and reports whether a pod whose name begins
// with prefix answers it.
func (d *demo) answeredBy(port uint16, prefix string) (bool, error) {
	tally, err := d.lab.Client.CountTCP(gateway(port), 1)
	for name := range tally.Answers {
		return strings.HasPrefix(name, prefix), err
	}
	return false, err
}

func (d *demo) connect() error {
	const connections = 300
	d.out.heading("Connections from the client, %d to each port", connections)
	rows := [][]string{}
	for _, want := range []struct {
		port   uint16
		shares map[string]float64
		note   string
	}{
		{8080, map[string]float64{"foo-1": 0.5, "foo-2": 0.5}, "listener foo → tcp-app-1 → my-foo-service"},
		{8090, map[string]float64{"bar-1": 1}, "listener bar → tcp-app-2 → my-bar-service"},
		{closed, map[string]float64{"refused": 1}, "no listener: the node's own RST"},
	} {
		tally, err := d.lab.Client.CountTCP(gateway(want.port), connections)
		if err != nil {
			return err
		}
		if err := check(tally, want.shares); err != nil {
			return fmt.Errorf("port %d: %w", want.port, err)
		}
		if seen := tally.Peers[netns.ClientAddr4]; seen != tally.Answered() {
			return fmt.Errorf("port %d: the pods saw clients %v, not %s", want.port, tally.Peers, netns.ClientAddr4)
		}
		rows = append(rows, []string{gateway(want.port).String(), counts(tally), want.note})
	}
	d.out.columns(rows)
	d.out.good("as the guide says; the pods saw the client's own address, %s", netns.ClientAddr4)
	return nil
}

func (d *demo) table() error {
	d.out.heading("The table in the node's kernel")
	d.out.say("$ nft list table inet portway")
	listing, err := d.lab.Node.Output("nft", "list", "table", "inet", "portway")
	if err != nil {
		return err
	}
	d.out.say("")
	d.out.block(shorten(listing))
	return nil
}

// change is the live edit of tcp-app-1, in the style of a diff.
const change = `
      - name: my-foo-service
        port: 6000
+       weight: 90
+     - name: my-bar-service
+       port: 6000
+       weight: 10
`

// apply makes the change in a manifest.
func apply(manifest string) (string, error) {
	var from, to strings.Builder
	for line := range strings.Lines(strings.TrimPrefix(change, "\n")) {
		sign, text := line[:2], line[2:]
		to.WriteString(text)
		if sign == "  " {
			from.WriteString(text)
		}
	}
	if strings.Count(manifest, from.String()) != 1 {
		return "", fmt.Errorf("%s has no backendRefs as the guide has them", routing)
	}
	return strings.Replace(manifest, from.String(), to.String(), 1), nil
}

func (d *demo) edit() error {
	d.out.heading("A live edit: tcp-app-1 sends 10 %% of its connections to my-bar-service")
	path := filepath.Join(d.dir, routing)
	manifest, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	edited, err := apply(string(manifest))
	if err != nil {
		return err
	}
	d.out.block(strings.TrimPrefix(change, "\n"))
	d.out.say("")

	load := d.lab.Client.StartLoad(gateway(8080))
	defer load.Stop() //nolint:errcheck // what it returns is read below
	if err := d.wait("traffic flows", func() (bool, error) { return load.Opened() >= 500, nil }); err != nil {
		return err
	}
	before, start := load.Opened(), time.Now()
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		return err
	}
	if err := d.wait("the edit is in force", func() (bool, error) { return d.answeredBy(8080, "bar-") }); err != nil {
		return err
	}
	took := time.Since(start)
	const connections = 1000
	after, err := d.lab.Client.CountTCP(gateway(8080), connections)
	if err != nil {
		return err
	}
	if err := check(after, map[string]float64{"foo-1": 0.45, "foo-2": 0.45, "bar-1": 0.1}); err != nil {
		return fmt.Errorf("after the edit: %w", err)
	}
	all, err := load.Stop()
	if err != nil {
		return err
	}
	if lost := all.Total() - all.Answered() + all.Resent; lost > 0 {
		return fmt.Errorf("%d of %d connections were lost during the edit: %s", lost, all.Total(), all)
	}
	d.out.columns([][]string{
		{"before", fmt.Sprintf("%d connections", before)},
		{"after", fmt.Sprintf("%d connections: %s", connections, counts(after))},
		{"all along", fmt.Sprintf("%d connections without a pause, %d refused", all.Total(), all.Refused)},
	})
	d.out.good("a connection reached my-bar-service %d ms after the file was saved", took.Milliseconds())
	return nil
}

func (d *demo) outlive() error {
	d.out.heading("The agent stops, the rules stay")
	code, err := d.agent.Stop()
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the agent ended with exit code %d", code)
	}
	tally, err := d.lab.Client.CountTCP(gateway(8090), 100)
	if err != nil {
		return err
	}
	if err := check(tally, map[string]float64{"bar-1": 1}); err != nil {
		return fmt.Errorf("without an agent: %w", err)
	}
	d.out.good("without an agent: 100 connections to %s, %s", gateway(8090), counts(tally))
	return nil
}

func (d *demo) cleanup() error {
	d.out.heading("Clean-up, only when asked for")
	cmd, err := d.agentCommand("--cleanup")
	if err != nil {
		return err
	}
	cleaner, err := d.lab.Node.Run(cmd)
	if err != nil {
		return err
	}
	if code, err := cleaner.Wait(readyTimeout); code != 0 || err != nil {
		return fmt.Errorf("clean-up ended with exit code %d: %w\n%s", code, err, cleaner.Stderr())
	}
	left, err := d.lab.Node.Output("nft", "list", "ruleset")
	if err != nil {
		return err
	}
	if left != "" {
		return fmt.Errorf("clean-up left this:\n%s", left)
	}
	d.out.say("$ nft list ruleset")
	tally, err := d.lab.Client.CountTCP(gateway(8080), 20)
	if err != nil {
		return err
	}
	if err := check(tally, map[string]float64{"refused": 1}); err != nil {
		return fmt.Errorf("after clean-up: %w", err)
	}
	d.out.good("the ruleset is empty; port 8080 is closed again")
	return nil
}
