package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// binary is one program of the lab and where its source is, relative to the lab's.
type binary struct {
	name, module, pkg string
	aliases           []string
	full              bool // for the full level only
}

var binaries = []binary{
	{
		name: "kube", module: "kube", pkg: ".",
		aliases: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"},
	},
	{name: "lab", module: ".", pkg: "./cmd/lab"},
	{name: "fakekubelet", module: ".", pkg: "./fakekubelet"},
	{name: "echo", module: ".", pkg: "./tools/echo"},
	{name: "kubelet", module: "kube", pkg: "./kubelet", full: true},
	{name: "pause", module: ".", pkg: "./tools/pause", full: true},
}

// progressEvery is how often a long build says where it is.
const progressEvery = 10 * time.Second

var kubernetesVersion = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes v(\d+)\.(\d+)\.\S+$`)

// Build builds what is missing or out of date and returns the directory of the
// programs. Concurrent builds wait for each other.
func Build(ctx context.Context, progress io.Writer) (string, error) {
	return build(ctx, progress, false)
}

// BuildFull does so for the full level.
func BuildFull(ctx context.Context, progress io.Writer) (string, error) {
	return build(ctx, progress, true)
}

func build(ctx context.Context, progress io.Writer, full bool) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(CacheDir(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(CacheDir(), "build.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	for _, b := range binaries {
		if b.full && !full {
			continue
		}
		if err := b.build(ctx, source, bin, progress); err != nil {
			return "", fmt.Errorf("build %s: %w", b.name, err)
		}
	}
	return bin, nil
}

func (b binary) build(ctx context.Context, source, bin string, progress io.Writer) error {
	module := filepath.Join(source, b.module)
	target, stampFile := filepath.Join(bin, b.name), filepath.Join(bin, "."+b.name+".stamp")
	stamp, err := stampOf(ctx, module)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(stampFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(target); err == nil && string(old) == stamp {
		return nil
	}
	flags, err := b.linkerFlags(module)
	if err != nil {
		return err
	}
	// Two packages at once, at low priority: the machine has other work, too.
	args := []string{"build", "-p", "2", "-v", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", target + ".new", b.pkg}
	if err := compile(ctx, module, b, args, progress); err != nil {
		return err
	}
	if err := os.Rename(target+".new", target); err != nil {
		return err
	}
	for _, alias := range b.aliases {
		link := filepath.Join(bin, alias)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(b.name, link); err != nil {
			return err
		}
	}
	return os.WriteFile(stampFile, []byte(stamp), 0o644)
}

// linkerFlags give Kubernetes its version, which upstream's build sets the same way.
func (b binary) linkerFlags(module string) (string, error) {
	flags := "-s -w"
	if b.module != "kube" {
		return flags, nil
	}
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	match := kubernetesVersion.FindSubmatch(mod)
	if match == nil {
		return "", errors.New("go.mod names no release of k8s.io/kubernetes")
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(match[0])), " ")
	for _, set := range []string{"gitVersion=" + version, "gitMajor=" + string(match[1]), "gitMinor=" + string(match[2]), "gitTreeState=clean"} {
		flags += " -X k8s.io/component-base/version." + set
	}
	return flags, nil
}

// compile runs the build and counts the packages that it names as it goes.
func compile(ctx context.Context, module string, b binary, args []string, progress io.Writer) error {
	fmt.Fprintf(progress, "lab: building %s\n", b.name)
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "19", "go"}, args...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	total := packages(ctx, module, b.pkg)
	var last []string // the end of the output: package names, then errors
	for count := 0; ; {
		select {
		case line, more := <-lines:
			if !more {
				if err := cmd.Wait(); err != nil {
					return fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
				}
				fmt.Fprintf(progress, "lab: built %s in %s\n", b.name, time.Since(started).Round(time.Second))
				return nil
			}
			count++
			last = append(last, line)
			last = last[max(0, len(last)-40):]
		case <-ticker.C:
			fmt.Fprintf(progress, "lab: building %s: %d packages compiled of at most %d, %s\n", b.name, count, total, time.Since(started).Round(time.Second))
		}
	}
}

// packages is how many packages a program is made of; 0: not known.
func packages(ctx context.Context, module, pkg string) int {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return 0
	}
	return bytes.Count(out, []byte("\n"))
}

// stampOf changes whenever the program of a module may change: its files, those of
// nested modules and tests apart, and the compiler. It is the same in every checkout.
func stampOf(ctx context.Context, module string) (string, error) {
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", version, runtime.GOARCH)
	err = filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != module {
				return fs.SkipDir
			}
			return nil
		}
		name := entry.Name()
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !source && name != "go.mod" && name != "go.sum" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(module, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n", relative, len(content))
		_, err = sum.Write(content)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// sourceDir finds the lab's source from the working directory upwards: from within
// the lab, or from anywhere in the project.
func sourceDir() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "integration", "lab")} {
			if _, err := os.Stat(filepath.Join(candidate, "kube", "gen-gomod.sh")); err == nil {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no source of the lab above %s", here)
		}
	}
}

func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}
