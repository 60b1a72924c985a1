// Package netns_test sends real TCP and UDP through what portway programs into a
// kernel: the rules of internal/netns labs, first of the programmer alone, then of
// the agent's binary. Tests run with both backends, in subtests of their names, and what
// iptables does otherwise by design is listed once, see differences.
package netns_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

// agentEnv carries the path of the built agent from the first process of the
// test to the isolated one, which could not download a module.
const agentEnv = "PORTWAY_TEST_AGENT"

func TestMain(m *testing.M) {
	if _, tried := os.LookupEnv(agentEnv); !tried {
		binary, err := buildAgent()
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // tests that need the agent fail
		}
		if err := os.Setenv(agentEnv, binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	netns.Main(m, func() {
		if binary := os.Getenv(agentEnv); binary != "" && os.Getenv(differsEnv) == "" {
			_ = os.RemoveAll(filepath.Dir(binary))
		}
	})
}

func buildAgent() (string, error) {
	dir, err := os.MkdirTemp("", "portway-agent-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "portway-agent")
	out, err := exec.Command("go", "build", "-o", binary, "../../cmd/portway-agent").CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("build the agent: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return binary, nil
}
