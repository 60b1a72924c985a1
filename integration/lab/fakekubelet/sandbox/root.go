package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// shared directories of the machine hold programs, and nothing that changes.
	shared = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc/ssl", "/etc/ca-certificates", "/etc/alternatives"}
	// copied files of the machine are what the C library asks for.
	copied = []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/etc/services", "/etc/ld.so.cache"}
	empty  = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/home", "/var", "/var/lib", "/var/log", "/var/tmp", "/etc", "/opt", "/mnt"}
)

// makeRoot builds the root of the container in memory and makes it the root of
// this process.
func makeRoot(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := spec.Root
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := fillRoot(root, spec); err != nil {
		return err
	}
	for _, m := range spec.Mounts {
		target := m.Target
		if below, ok := strings.CutPrefix(target, "/var/run/"); ok {
			// The symlink's target is absolute and would lead out of the new root.
			target = "/run/" + below
		}
		if err := bind(m.Source, filepath.Join(root, target), m.ReadOnly); err != nil {
			return err
		}
	}
	if spec.ReadOnly {
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// Stacks the old root over the new one, pivot_root(2), and takes it away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

func fillRoot(root string, spec Spec) error {
	for _, dir := range empty {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if err := os.Chmod(filepath.Join(root, dir), 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(root, "/var/run")); err != nil {
		return err
	}
	fill := fillMachine
	if spec.Image != "" {
		fill = func(root string) error { return fillImage(root, spec.Image) }
	}
	if err := fill(root); err != nil {
		return err
	}
	for file, content := range spec.Files {
		if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := bind("/dev", filepath.Join(root, "/dev"), false); err != nil {
		return err
	}
	return mountKernel(root, spec)
}

// fillMachine shows the machine's programs.
func fillMachine(root string) error {
	for _, dir := range shared {
		if err := share(root, dir, dir); err != nil {
			return err
		}
	}
	for _, file := range copied {
		if err := copyFile(file, filepath.Join(root, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// fillImage shows what is in the root of an image. Its /etc is copied, as files are
// added there; what else is empty and writable stays so.
func fillImage(root, image string) error {
	entries, err := os.ReadDir(image)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if dir := "/" + entry.Name(); !slices.Contains(empty, dir) {
			if err := share(root, filepath.Join(image, dir), dir); err != nil {
				return err
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(image, "etc", "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := copyFile(file, filepath.Join(root, "etc", filepath.Base(file))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// mountKernel mounts what the kernel shows. Settings are read-only for all but
// privileged containers, as container runtimes have it.
func mountKernel(root string, spec Spec) error {
	var flags uintptr
	if !spec.Privileged {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("proc", filepath.Join(root, "/proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", filepath.Join(root, "/sys"), "sysfs", flags, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := showBootID(root, spec.BootID); err != nil {
		return err
	}
	if spec.Privileged {
		return nil
	}
	settings := filepath.Join(root, "/proc/sys")
	return bind(settings, settings, true)
}

// showBootID makes the kernel's boot that of the node: a node of the lab boots
// while the machine under it runs on.
func showBootID(root, id string) error {
	file := filepath.Join(root, "/run/boot_id")
	if err := os.WriteFile(file, []byte(id+"\n"), 0o444); err != nil {
		return err
	}
	return bind(file, filepath.Join(root, "/proc/sys/kernel/random/boot_id"), true)
}

// share shows a directory or file at a place in the root, or copies the symlink that it
// is, /bin → usr/bin.
func share(root, source, target string) error {
	link, err := os.Readlink(source)
	if err == nil {
		return os.Symlink(link, filepath.Join(root, target))
	}
	if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return bind(source, filepath.Join(root, target), true)
}

// bind shows source at target, which is made if it is not there.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := makeTarget(target, info.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", source, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("bind %s read-only: %w", source, err)
	}
	return nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}
