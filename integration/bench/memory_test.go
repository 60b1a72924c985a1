package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
)

// BenchmarkAgentMemory starts the real agent on manifests and waits until its
// statuses say that every Gateway is programmed. rss-MB is the resident memory
// then, peak-MB the highest since its start, which parsing decides, and settled-MB
// the resident memory 45 s later.
func BenchmarkAgentMemory(b *testing.B) {
	binary := filepath.Join(b.TempDir(), "portway-agent")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/portway-agent").CombinedOutput(); err != nil {
		b.Fatalf("build the agent: %v\n%s", err, out)
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			manifests := writeManifests(b, n)
			gateways := (n + listenersPerGateway - 1) / listenersPerGateway
			for b.Loop() {
				measureAgent(b, binary, manifests, gateways)
			}
		})
	}
}

func measureAgent(b *testing.B, binary string, manifests []string, gateways int) {
	b.Helper()
	status := filepath.Join(b.TempDir(), "status.yaml")
	args := []string{"--node-name", "node", "--node-address", netns.NodeAddr4.String(), "--status-out", status}
	for _, path := range manifests {
		args = append(args, "--manifests", path)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stderr = &stderr
	begin := time.Now()
	if err := netns.ForTest(b, "node").Start(cmd); err != nil {
		b.Fatal(err)
	}
	for deadline := begin.Add(time.Minute); countProgrammed(status) < gateways; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			b.Fatalf("%d of %d Gateways are programmed after a minute\n%s", countProgrammed(status), gateways, stderr.String())
		}
	}
	b.ReportMetric(time.Since(begin).Seconds(), "start-to-status-s")
	b.ReportMetric(memory(b, cmd.Process.Pid, "VmRSS:"), "rss-MB")
	b.ReportMetric(memory(b, cmd.Process.Pid, "VmHWM:"), "peak-MB")
	time.Sleep(45 * time.Second) // an idle agent gives back what its load left behind
	b.ReportMetric(memory(b, cmd.Process.Pid, "VmRSS:"), "settled-MB")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("agent: %v\n%s", err, stderr.String())
	}
}

// countProgrammed counts the Gateways whose status says that they are programmed.
func countProgrammed(status string) int {
	text, err := os.ReadFile(status)
	if err != nil {
		return 0 // not written yet
	}
	n := 0
	for _, document := range strings.Split(string(text), "\n---\n") {
		head, listeners, _ := strings.Cut(document, "\n  listeners:")
		if strings.Contains(head, "kind: Gateway\n") && strings.Contains(head+listeners, "reason: Programmed") {
			n++
		}
	}
	return n
}

// memory reads a value of a process in MB (10⁶ bytes).
func memory(b *testing.B, pid int, name string) float64 {
	b.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name); ok {
			var kib float64
			if _, err := fmt.Sscanf(value, "%f kB", &kib); err != nil {
				b.Fatalf("%s%s: %v", name, value, err)
			}
			return kib * 1024 / 1e6
		}
	}
	b.Fatalf("no %s of process %d", name, pid)
	return 0
}
