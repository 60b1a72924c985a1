package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// lockTimeout is how many seconds iptables waits for its lock, which others may hold.
const lockTimeout = 5

// installed is a tool as it is installed here.
type installed struct {
	*iptables.IPTables
	save string
}

// install finds a tool; nil where there is none. Distributions without both variants
// call theirs by the plain name.
func install(t tool) (*installed, error) {
	variant := "(nf_tables)"
	plain, _, _ := strings.Cut(t.String(), "-")
	if t.legacy {
		variant = "(legacy)"
	}
	protocol := iptables.ProtocolIPv4
	if t.v6 {
		protocol = iptables.ProtocolIPv6
	}
	for _, name := range []string{t.String(), plain} {
		if _, err := exec.LookPath(name + "-save"); err != nil {
			continue
		}
		version, err := exec.Command(name, "--version").Output()
		if err != nil || !strings.Contains(string(version), variant) {
			continue
		}
		program, err := iptables.New(iptables.IPFamily(protocol), iptables.Path(name), iptables.Timeout(lockTimeout))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return &installed{program, name + "-save"}, nil
	}
	return nil, nil
}

// read returns a table, which must be there: to ask for another one makes it.
func (i *installed) read(ctx context.Context, t tool, name string) (*table, error) {
	out, err := exec.CommandContext(ctx, i.save, "-t", name).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		line, _, _ := strings.Cut(string(exit.Stderr), "\n")
		return nil, fmt.Errorf("%s: %s: %w", i.save, line, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.save, err)
	}
	return parseSave(t, name, string(out))
}
