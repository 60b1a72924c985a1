package machine

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// applyCRDs applies the manifests the lab was given and waits until the API server
// serves what they define.
func (m *Machine) applyCRDs(ctx context.Context) error {
	if m.CRDs == "" {
		return nil
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-f", m.CRDs},
		{"wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"},
	} {
		command := exec.CommandContext(ctx, filepath.Join(m.Bin, "kubectl"), append([]string{"--kubeconfig", m.kubeconfig("admin")}, args...)...)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("CRDs: kubectl %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
