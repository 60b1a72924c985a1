// Rulesets writes docs/rulesets.md: for each of a few small topologies what the kernel
// holds and which way a packet takes. The manifests go the way they go in the agent, into
// a network namespace of their own, and are read back with nft; nothing outside is
// touched and no root is needed. hack/verify.sh holds the document against the output.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
	"github.com/portway-dev/portway/topology"
)

func main() {
	root := flag.String("root", ".", "`directory` of the repository")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintf(os.Stderr, "rulesets: %v\n", err)
		os.Exit(1)
	}
}

func run(root string) error {
	if err := netns.Isolate(); err != nil {
		return fmt.Errorf("cannot make network namespaces, which takes root or unprivileged user namespaces: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return write(ctx, os.Stdout, root)
}

// write writes the document.
func write(ctx context.Context, out io.Writer, root string) error {
	version, err := nftVersion()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, introduction, version)
	for _, t := range topologies {
		fmt.Fprintf(out, "- [%s](#%s)\n", t.title, anchor(t.title))
	}
	shown := map[string]string{}
	for _, t := range topologies {
		if err := t.section(ctx, out, root, shown); err != nil {
			return fmt.Errorf("%s (%s): %w", t.title, version, err)
		}
	}
	return nil
}

func nftVersion() (string, error) {
	here, err := netns.New("version")
	if err != nil {
		return "", err
	}
	text, err := here.Output("nft", "--version")
	version, _, _ := strings.Cut(strings.TrimSpace(text), " (")
	return version, errors.Join(err, here.Close())
}

// anchor is what a heading is linked by.
func anchor(title string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(title))
}

// section writes one topology. shown are the blocks of the sections before, by name.
func (t *example) section(ctx context.Context, out io.Writer, root string, shown map[string]string) error {
	node := topology.Node{Name: nodeName, Addresses: t.addresses()}
	state, err := decide(root, t.files, node)
	if err != nil {
		return err
	}
	table, err := program(ctx, state)
	if err != nil {
		return err
	}
	links := make([]string, 0, len(t.files))
	for _, file := range t.files {
		relative, err := filepath.Rel("docs", file)
		if err != nil {
			return err
		}
		links = append(links, fmt.Sprintf("[%s](%s)", filepath.Base(file), filepath.ToSlash(relative)))
	}
	fmt.Fprintf(out, "\n## %s\n\n%s\nManifest: %s.\n", t.title, strings.TrimPrefix(t.shows, "\n"), strings.Join(links, ", "))
	for _, p := range t.packets(state) {
		text, err := table.draw(state, p, slices.Contains(node.Addresses, p.Src.Addr()))
		if err != nil {
			return fmt.Errorf("%s to %s: %w", p.Src, p.Dst, err)
		}
		fmt.Fprintf(out, "\n```text\n%s```\n", text)
	}
	fmt.Fprintf(out, "\n```text\n%s```\n", table.text(shown))
	return nil
}

// packets are the samples: one from outside to each Frontend, and those of the example.
func (t *example) packets(state *rules.State) []rules.Packet {
	var packets []rules.Packet
	for _, key := range state.Keys() {
		client := netns.ClientAddr4
		if key.Addr.Is6() {
			client = netns.ClientAddr6
		}
		for _, from := range slices.Concat([]netip.Addr{client}, t.clients) {
			if from.Is4() == key.Addr.Is4() {
				packets = append(packets, rules.Packet{
					Protocol: key.Protocol, Src: netip.AddrPortFrom(from, 40000), Dst: netip.AddrPortFrom(key.Addr, key.Port),
				})
			}
		}
	}
	return packets
}

// decide makes of manifests what an agent would.
func decide(root string, files []string, node topology.Node) (*rules.State, error) {
	paths := make([]string, 0, len(files))
	for _, file := range files {
		paths = append(paths, filepath.Join(root, file))
	}
	objects, err := cluster.Load(paths)
	if err != nil {
		return nil, err
	}
	resolution := topology.Resolve(*objects.Snapshot, topology.DefaultConfig())
	forwarder := topology.NewForwarder(node)
	forwarder.SetGraph(resolution.Build(cluster.Assign(resolution, node.Addresses)))
	for service, list := range objects.Slices {
		forwarder.SetEndpointSlices(service, list)
	}
	return forwarder.State(), nil
}

// program puts a State into a kernel's namespace of its own and reads it back.
func program(ctx context.Context, state *rules.State) (table *listing, err error) {
	node, err := netns.New(nodeName)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	config := nftables.DefaultConfig()
	config.NetNS = node.Handle()
	programmer, err := nftables.New(config)
	if err != nil {
		return nil, err
	}
	_, err = programmer.Program(ctx, state)
	if err := errors.Join(err, programmer.Close()); err != nil {
		return nil, err
	}
	listed, err := node.Output("nft", "list", "table", "inet", config.Table)
	if err != nil {
		return nil, err
	}
	rendered, err := nftables.RenderBrief(state, config)
	if err != nil {
		return nil, err
	}
	return newListing(listed, rendered)
}
