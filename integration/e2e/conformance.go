package e2e

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/portway-dev/portway/integration/lab"
)

const suitesEcho = "sigs.k8s.io/gateway-api/conformance/echo-basic"

// Suite is the conformance suite of the Gateway API with the tests of our own beside it,
// built to be run on a cluster.
type Suite struct {
	module, bin string
	progress    io.Writer
}

// BuildSuite builds it, and adds what its pods run to the options of a cluster.
func BuildSuite(ctx context.Context, o *Options) (*Suite, error) {
	root, err := Repository()
	if err != nil {
		return nil, err
	}
	s := &Suite{module: filepath.Join(root, "integration", "conformance"), bin: filepath.Join(lab.CacheDir(), "conformance-bin"), progress: o.Progress}
	if err := Compile(ctx, s.module, s.bin, s.progress, suitesEcho, "./dns"); err != nil {
		return nil, err
	}
	if err := CompileTest(ctx, s.module, s.test(), s.progress); err != nil {
		return nil, err
	}
	if o.Full {
		return s, s.pack(ctx, o)
	}
	o.BinDirs = append(o.BinDirs, s.bin)
	return s, nil
}

func (s *Suite) test() string { return filepath.Join(s.bin, "conformance.test") }

// Run runs the suite on a cluster with the product, and writes what it prints to out. The
// report, below integration/conformance, is of a version of the product; empty: none is
// written. More arguments are of the test binary, for example -test.run=TestL4 or -debug.
func (s *Suite) Run(ctx context.Context, c *Cluster, out io.Writer, report, version string, args ...string) error {
	args = append([]string{"-test.v", "-test.timeout=30m", "-live", "-gateway-class=" + ClassName, "-version=" + version}, args...)
	if report != "" {
		args = append(args, "-report-output="+filepath.Join(s.module, report))
	}
	// The suite dials Gateways from its own process: outside of the cluster.
	cmd, err := c.Outside().Command(ctx, s.test(), args...)
	if err != nil {
		return err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.module, out, out
	return cmd.Run()
}

// servers matches the images of manifests that a program of ours or of the suite's
// stands for.
var servers = regexp.MustCompile(`(?m)^[\s-]*image: ((?:\S+/)?(echo-basic|dns):\S+)$`)

// pack makes the images that the manifests name, the suite's and ours.
func (s *Suite) pack(ctx context.Context, o *Options) error {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api/conformance")
	list.Dir = s.module
	suite, err := list.Output()
	if err != nil {
		return fmt.Errorf("find the suite: %w", err)
	}
	programs := map[string]string{}
	for _, dir := range []string{strings.TrimSpace(string(suite)), s.module} {
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
		archive := filepath.Join(s.bin, fmt.Sprintf("%s-%d.tar", program, len(o.Archives)))
		if err := lab.Pack(archive, image, filepath.Join(s.bin, program)); err != nil {
			return err
		}
		o.Archives = append(o.Archives, archive)
	}
	return nil
}
