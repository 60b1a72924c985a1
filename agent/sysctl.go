package agent

import (
	"os"
	"path/filepath"
)

// procSysctls are the settings of the network namespace this process is in.
type procSysctls struct{}

func (procSysctls) Read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join("/proc/sys", path))
}

func (procSysctls) Write(path string, value []byte) error {
	return os.WriteFile(filepath.Join("/proc/sys", path), value, 0o644)
}
