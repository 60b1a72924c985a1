package agent

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID returns what tells this boot of the kernel from all others, empty where
// the kernel does not say (kernel.random.boot_id, random(4)). A kubelet publishes
// the same.
func bootID(s sysctls) string {
	text, err := s.Read("kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// procSysctls are the settings of the network namespace this process is in.
type procSysctls struct{}

func (procSysctls) Read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join("/proc/sys", path))
}

func (procSysctls) Write(path string, value []byte) error {
	return os.WriteFile(filepath.Join("/proc/sys", path), value, 0o644)
}

func (procSysctls) Writable(path string) bool {
	return unix.Access(filepath.Join("/proc/sys", path), unix.W_OK) == nil
}
