package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/portway-dev/portway/integration/e2e"
	"github.com/portway-dev/portway/integration/lab"
)

// servers matches the images of manifests that a program of ours or of the suite's
// stands for.
var servers = regexp.MustCompile(`(?m)^[\s-]*image: ((?:\S+/)?(echo-basic|dns):\S+)$`)

// onRealKubelets makes the images that the manifests name, the suite's and ours.
func onRealKubelets(ctx context.Context, o *e2e.Options, module, bin string) error {
	o.Full, o.KubeProxy, o.BinDirs = true, lab.ProxyNFTables, nil
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api/conformance")
	list.Dir = module
	suite, err := list.Output()
	if err != nil {
		return fmt.Errorf("find the suite: %w", err)
	}
	programs := map[string]string{}
	for _, dir := range []string{strings.TrimSpace(string(suite)), module} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			manifests, err := os.ReadFile(path)
			for _, match := range servers.FindAllStringSubmatch(string(manifests), -1) {
				programs[match[1]] = match[2]
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for image, program := range programs {
		archive := filepath.Join(bin, fmt.Sprintf("%s-%d.tar", program, len(o.Archives)))
		if err := lab.Pack(archive, image, filepath.Join(bin, program)); err != nil {
			return err
		}
		o.Archives = append(o.Archives, archive)
	}
	return nil
}
