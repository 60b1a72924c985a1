package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/yaml"
)

// Sets of CRDs of the Gateway API.
const (
	CRDsNone         = "none"
	CRDsStandard     = "standard"
	CRDsExperimental = "experimental"
	// CRDsV1Alpha2 is what clusters had before TCPRoute and UDPRoute became v1:
	// they and TLSRoute are served as v1alpha2 only, ReferenceGrant as v1beta1,
	// and there is no ListenerSet.
	CRDsV1Alpha2 = "v1alpha2"
)

// BundleVersion is the version of the CRDs.
const BundleVersion = consts.BundleVersion

// oldestVersions are the versions that CRDsV1Alpha2 leaves, by plural name.
var oldestVersions = map[string]string{
	"tcproutes": "v1alpha2", "udproutes": "v1alpha2", "tlsroutes": "v1alpha2", "referencegrants": "v1beta1",
}

// prepareCRDs returns the directory with the manifests of a set, empty for none.
// What must be written is written to scratch.
func prepareCRDs(ctx context.Context, set, scratch string) (string, error) {
	channel := set
	switch set {
	case CRDsNone:
		return "", nil
	case CRDsStandard, CRDsExperimental:
	case CRDsV1Alpha2:
		channel = CRDsExperimental
	default:
		info, err := os.Stat(set)
		if err != nil || !info.IsDir() {
			return "", fmt.Errorf("CRDs: %q is neither a set nor a directory", set)
		}
		return filepath.Abs(set)
	}
	source, err := CRDDir(ctx, channel)
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(source, "gateway.networking*.yaml"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return "", err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if set == CRDsV1Alpha2 {
			if content, err = Oldest(content); err != nil {
				return "", fmt.Errorf("CRDs: %s: %w", filepath.Base(file), err)
			}
		}
		if content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(scratch, filepath.Base(file)), content, 0o644); err != nil {
			return "", err
		}
	}
	return scratch, nil
}

// CRDDir is the directory of a channel in the module that defines the API.
func CRDDir(ctx context.Context, channel string) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	cmd.Dir = source
	out, err := cmd.Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		return "", fmt.Errorf("find the Gateway API's module: %w (go mod download?)", err)
	}
	return filepath.Join(dir, "config", "crd", channel), nil
}

// Oldest edits the manifest of a CRD to what CRDsV1Alpha2 says; nil is a manifest
// that is left out. The policy against downgrades is left out, too.
func Oldest(manifest []byte) ([]byte, error) {
	if bytes.Contains(manifest, []byte("kind: ValidatingAdmissionPolicy")) {
		return nil, nil
	}
	var crd map[string]any
	if err := yaml.Unmarshal(manifest, &crd); err != nil {
		return nil, err
	}
	spec, _ := crd["spec"].(map[string]any)
	names, _ := spec["names"].(map[string]any)
	plural, _ := names["plural"].(string)
	if plural == "listenersets" {
		return nil, nil
	}
	keep, ok := oldestVersions[plural]
	if !ok {
		return manifest, nil
	}
	versions, _ := spec["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["name"] == keep {
			version["served"], version["storage"] = true, true
			spec["versions"] = []any{version}
			return yaml.Marshal(crd)
		}
	}
	return nil, fmt.Errorf("no version %s", keep)
}
