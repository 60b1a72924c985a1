package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

// lockWait is how many seconds iptables may wait for the lock of another one.
const lockWait = 10

// tools are the commands of one variant and family.
type tools struct {
	ipv6    bool
	variant Variant
	command string // iptables-nft, ip6tables-legacy, …
	stats   *Stats
	rules   *goiptables.IPTables
	// fault makes a restore fail before it is run, for tests.
	fault func(input []byte) error
}

// family is the name of the commands without a variant.
func family(ipv6 bool) string {
	if ipv6 {
		return "ip6tables"
	}
	return "iptables"
}

// findTools returns the commands of a variant, which may be the plain ones.
func findTools(v Variant, ipv6 bool, stats *Stats) (*tools, error) {
	t := &tools{ipv6: ipv6, variant: v, stats: stats, command: family(ipv6) + "-" + string(v)}
	if _, err := exec.LookPath(t.command); err != nil {
		if plainVariant(family(ipv6)) != v {
			return nil, err
		}
		t.command = family(ipv6)
	}
	for _, name := range []string{t.save(), t.restore()} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, err
		}
	}
	protocol := goiptables.ProtocolIPv4
	if ipv6 {
		protocol = goiptables.ProtocolIPv6
	}
	rules, err := goiptables.New(goiptables.IPFamily(protocol), goiptables.Path(t.command), goiptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", t.command, err)
	}
	if !rules.HasRandomFully() {
		major, minor, patch := rules.GetIptablesVersion()
		return nil, fmt.Errorf("%s %d.%d.%d is too old: version 1.6.2 or later is needed", t.command, major, minor, patch)
	}
	t.rules = rules
	return t, nil
}

// plainVariant is the variant of a command without one in its name, empty if there is
// no such command. Versions before 1.8 say nothing and know the one only.
func plainVariant(command string) Variant {
	if _, err := exec.LookPath(command); err != nil {
		return ""
	}
	out, err := exec.Command(command, "--version").Output()
	switch {
	case err != nil:
		return ""
	case bytes.Contains(out, []byte("nf_tables")):
		return NFT
	}
	return Legacy
}

func (t *tools) save() string    { return t.command + "-save" }
func (t *tools) restore() string { return t.command + "-restore" }

// read returns what of ours is in the kernel.
func (t *tools) read(ctx context.Context) (image, error) {
	m := newImage()
	for _, table := range tableNames {
		out, err := t.run(ctx, nil, t.save(), "-t", table)
		if err == nil {
			err = m.parse(out)
		}
		if err != nil {
			return m, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	return m, nil
}

// commit has the kernel take sections, each at once. Of those before a failing one,
// nobody knows.
func (t *tools) commit(ctx context.Context, sections []section) error {
	input := payload(sections)
	if len(input) == 0 {
		return nil
	}
	if t.fault != nil {
		if err := t.fault(input); err != nil {
			return err
		}
	}
	t.stats.Restores++
	_, err := t.run(ctx, input, t.restore(), "--noflush", "-w", fmt.Sprint(lockWait))
	return err
}

// enter makes a missing jump, in front of all that is there.
func (t *tools) enter(j jump) error {
	t.stats.Commands++
	if err := t.rules.Insert(j.table, j.from, 1, "-j", j.to); err != nil {
		return fmt.Errorf("lead from %s to %s: %w", j.from, j.to, err)
	}
	return nil
}

func (t *tools) run(ctx context.Context, input []byte, name string, args ...string) ([]byte, error) {
	t.stats.Commands++
	cmd := exec.CommandContext(ctx, name, args...)
	var out, problems bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &problems
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", name, ctx.Err())
	}
	if err != nil {
		return nil, commandError(name, err, problems.String())
	}
	return out.Bytes(), nil
}

// commandError tells what a command printed, in one line.
func commandError(name string, err error, printed string) error {
	text := strings.Join(strings.Fields(printed), " ")
	text = text[:min(len(text), 400)]
	if locked(text) {
		return fmt.Errorf("%s: %w (%w): %s", name, errLocked, err, text)
	}
	if forbidden(text) {
		return fmt.Errorf("%s: %w (%w): %s", name, os.ErrPermission, err, text)
	}
	return fmt.Errorf("%s: %w: %s", name, err, text)
}

// errLocked says why a command of iptables-legacy did nothing: it takes a lock first, by
// which it and those of others, in other containers, too, wait for each other.
var errLocked = errors.New("no access to the lock of iptables; it is the host's /run/xtables.lock, which has to be there to write")

// locked reports whether a command says that it could not get its lock.
func locked(text string) bool {
	return strings.Contains(text, "can't open lock file") || strings.Contains(text, "holding the xtables lock")
}

// forbidden reports whether a command says that a right is missing.
func forbidden(text string) bool {
	return strings.Contains(text, "Permission denied") || strings.Contains(text, "Operation not permitted")
}

// inside runs f on a thread in the namespace of a file descriptor, 0 for the one it
// is in. That thread ends with f: it is never unlocked (runtime.LockOSThread).
func inside(netns int, f func() error) error {
	if netns == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
