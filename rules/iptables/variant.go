package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"

	"github.com/portway-dev/portway/internal/netfilter"
)

// kubeChain is what kubelet and kube-proxy leave for others to find their variant by.
// Source: kubernetes-sigs/iptables-wrappers; KUBE-IPTABLES-HINT is kubelet's since 1.24.
var (
	kubeHint  = regexp.MustCompile(`(?m)^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY)`)
	kubeChain = regexp.MustCompile(`(?m)^:KUBE-`)
)

// detect returns the variant the node uses: that of kubelet's and kube-proxy's chains, or
// else that which has tables, or else that of the command "iptables".
func detect(ctx context.Context) (Variant, error) {
	saved := make(map[Variant][]byte)
	for _, v := range []Variant{NFT, Legacy} {
		if tables, err := netfilter.XTables(false); v == Legacy && err == nil && len(tables) == 0 {
			continue // to look would make them
		}
		out, err := exec.CommandContext(ctx, "iptables-"+string(v)+"-save").Output()
		if err != nil && ctx.Err() != nil {
			return "", ctx.Err()
		}
		saved[v] = out // nothing where there is no such command
	}
	for _, mark := range []*regexp.Regexp{kubeHint, kubeChain} {
		for _, v := range []Variant{NFT, Legacy} {
			if mark.Match(saved[v]) {
				return v, nil
			}
		}
	}
	rule := []byte("\n-A ")
	if bytes.Contains(saved[Legacy], rule) && !bytes.Contains(saved[NFT], rule) {
		return Legacy, nil
	}
	if v := plainVariant("iptables"); v != "" {
		return v, nil
	}
	for _, v := range []Variant{NFT, Legacy} {
		if _, err := exec.LookPath("iptables-" + string(v)); err == nil {
			return v, nil
		}
	}
	return "", fmt.Errorf("no command iptables: %w", exec.ErrNotFound)
}
