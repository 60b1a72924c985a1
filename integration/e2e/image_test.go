package e2e

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/portway-dev/portway/integration/lab"
)

const (
	imageRepository = "portway-dev/portway"
	// raisedRepository is that of raisedImage. The small level knows images without their tags.
	raisedRepository = "portway-dev/raised"
	nativeTag        = "e2e-" + runtime.GOARCH
)

// imageLimit is what an image may have, compressed.
const imageLimit = 60e6

// builtImage is one of the builds of `make image`.
type builtImage struct{ archive, digest string }

// native is built once for all tests.
var native struct {
	sync.Mutex
	builtImage
}

// nativeImage returns the image for this machine.
func nativeImage(t *testing.T) builtImage {
	t.Helper()
	native.Lock()
	defer native.Unlock()
	if native.archive == "" {
		archive := filepath.Join(lab.CacheDir(), "image-"+runtime.GOARCH+".tar")
		native.builtImage = builtImage{archive, buildImage(t, runtime.GOARCH, archive)}
	}
	return native.builtImage
}

// TestImage builds the image as `make image` does: twice with one digest, and for the
// other architecture.
func TestImage(t *testing.T) {
	skipUnlessE2E(t)
	dir := t.TempDir()
	here, other := runtime.GOARCH, "arm64"
	if here == other {
		other = "amd64"
	}
	first := nativeImage(t)
	if again := buildImage(t, here, filepath.Join(dir, "again.tar")); first.digest != again {
		t.Errorf("two builds have digests %s and %s", first.digest, again)
	}
	archives := map[string]string{here: first.archive, other: filepath.Join(dir, other+".tar")}
	buildImage(t, other, archives[other])
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		archive, root := archives[arch], filepath.Join(dir, arch)
		config := unpackImage(t, archive, root)
		if config.Architecture != arch || config.Config.User != "65532:65532" {
			t.Errorf("%s: the image is of %s and runs as %q", arch, config.Architecture, config.Config.User)
		}
		for label := range config.Config.Labels {
			if !strings.HasPrefix(label, "org.opencontainers.image.") {
				t.Errorf("%s: with label %s, another version of what builds makes another digest", arch, label)
			}
		}
		checkPrograms(t, root, machine)
		checkBOM(t, root, arch)
		info, err := os.Stat(archive)
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("%s: the image has %.1f MB, compressed", arch, float64(info.Size())/1e6); info.Size() > imageLimit {
			t.Errorf("%s: the archive has %d bytes, more than %.0f", arch, info.Size(), imageLimit)
		}
	}
	// Another root shows that nothing of this machine is needed.
	for command, want := range map[string]string{
		"/portwayctl --version": "portwayctl version e2e", "/portway-agent --version": "portway-agent e2e", "/portway-controller --version": "portway-controller e2e",
		"/usr/sbin/iptables --version": "(nf_tables)", "/usr/sbin/ip6tables-legacy --version": "(legacy)",
		"/usr/sbin/iptables -m set -h": "match-set", "/usr/sbin/iptables -m connlabel -h": "connlabel match options",
	} {
		out, err := exec.Command("unshare", append([]string{"-n", "chroot", filepath.Join(dir, here)}, strings.Fields(command)...)...).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("%s prints %q, not %q: %v", command, out, want, err)
		}
	}
}

func skipUnlessE2E(t *testing.T) {
	t.Helper()
	if os.Getenv("E2E") == "" {
		t.Skip("E2E=1 builds the image on this machine; it needs root")
	}
}

// buildImage builds the image into an archive and returns its digest.
func buildImage(t *testing.T, arch, archive string) string {
	t.Helper()
	root, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nice", "make", "--no-print-directory", "-C", root, "image")
	cmd.Env = append(os.Environ(), "VERSION=e2e", "IMAGE="+imageRepository+":e2e-"+arch, "IMAGE_ARCH="+arch, "IMAGE_ARCHIVE="+archive, "LOCAL_BASE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make image: %v\n%s", err, out)
	}
	index := readJSON[struct{ Manifests []struct{ Digest string } }](t, archiveFile(t, archive, "index.json"))
	return index.Manifests[0].Digest
}

type imageConfig struct {
	Architecture string
	Config       struct {
		User   string
		Labels map[string]string
	}
}

// unpackImage writes the files of an image below a directory.
func unpackImage(t *testing.T, archive, root string) imageConfig {
	t.Helper()
	blob := func(digest string) []byte {
		return archiveFile(t, archive, "blobs/"+strings.Replace(digest, ":", "/", 1))
	}
	type descriptor struct{ Digest string }
	index := readJSON[struct{ Manifests []descriptor }](t, archiveFile(t, archive, "index.json"))
	manifest := readJSON[struct {
		Config descriptor
		Layers []descriptor
	}](t, blob(index.Manifests[0].Digest))
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		cmd := exec.Command("tar", "-xz", "-C", root)
		cmd.Stdin = bytes.NewReader(blob(layer.Digest))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v: %s", layer.Digest, err, out)
		}
	}
	return readJSON[imageConfig](t, blob(manifest.Config.Digest))
}

func archiveFile(t *testing.T, archive, name string) []byte {
	t.Helper()
	out, err := exec.Command("tar", "-xOf", archive, name).Output()
	if err != nil {
		t.Fatalf("read %s of %s: %v", name, archive, err)
	}
	return out
}

func readJSON[T any](t *testing.T, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// checkPrograms: ours are static, and what others are linked with is there.
func checkPrograms(t *testing.T, root string, machine elf.Machine) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"portway*", "usr/sbin/xtables-*", "usr/lib/*/xtables/*.so", "usr/lib/*/*.so*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("nothing at %s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		program, err := elf.Open(file)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if program.Machine != machine {
			t.Errorf("%s is for %s, not %s", file, program.Machine, machine)
		}
		libraries, err := program.ImportedLibraries()
		_ = program.Close()
		if ours := strings.HasPrefix(filepath.Base(file), "portway"); ours && len(libraries) > 0 {
			t.Errorf("%s is linked with %v", file, libraries)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, library := range libraries {
			if found, _ := filepath.Glob(filepath.Join(root, "usr/lib/*", library)); len(found) == 0 {
				t.Errorf("%s needs %s, which is not there", file, library)
			}
		}
	}
}

// checkBOM: the bill of materials has the programs' modules and the packages of iptables.
func checkBOM(t *testing.T, root, arch string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "usr/share/portway/sbom.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	bom := readJSON[struct{ Packages []struct{ Name string } }](t, data)
	var names []string
	for _, p := range bom.Packages {
		names = append(names, p.Name)
	}
	for _, want := range []string{"iptables", "libc6", "std", "k8s.io/client-go", "github.com/google/nftables"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s: %s is not in the SBOM", arch, want)
		}
	}
}

// helm runs helm, as integration/chart pins it, on the cluster.
func (c *Cluster) helm(ctx context.Context, args ...string) (string, error) {
	program, err := exec.CommandContext(ctx, "go", "-C", filepath.Join(c.root, "integration", "chart"), "tool", "-n", "helm").Output()
	if err != nil {
		return "", fmt.Errorf("build helm: %w", err)
	}
	cmd, err := c.Machine().Command(ctx, strings.TrimSpace(string(program)), args...)
	if err != nil {
		return "", err
	}
	home := filepath.Join(lab.CacheDir(), "helm")
	cmd.Env = append(cmd.Env, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("helm %v: %w: %s", args, err, out)
	}
	return string(out), nil
}
