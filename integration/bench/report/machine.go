package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// machine is what there is besides its processors.
type machine struct {
	Distribution string `json:"distribution,omitempty"`
	// Hypervisor is "none", its name, or "unnamed".
	Hypervisor string `json:"hypervisor,omitempty"`
	Memory     int64  `json:"memory,omitempty"` // in bytes
	// Mitigations of what is wrong with the processor, by what the kernel says of it.
	Mitigations      string `json:"mitigations,omitempty"`
	ConntrackMax     int    `json:"conntrackMax,omitempty"`
	ConntrackBuckets int    `json:"conntrackBuckets,omitempty"`
	// OpenFiles are the soft and the hard limit of a process that raises none.
	OpenFiles string `json:"openFiles,omitempty"`
}

func thisMachine() machine {
	m := machine{
		Distribution: distribution(file("/etc/os-release")),
		Hypervisor:   hypervisor("/sys", file("/proc/cpuinfo")),
		Memory:       memory(file("/proc/meminfo")),
		Mitigations:  mitigations("/sys/devices/system/cpu/vulnerabilities"),
		OpenFiles:    openFiles(),
	}
	m.ConntrackMax, m.ConntrackBuckets = conntrack()
	return m
}

// file returns the text of one, "" if it cannot be read.
func file(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// distribution is the name in os-release.
func distribution(release string) string {
	for _, line := range strings.Split(release, "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return ""
}

// hypervisor is what firmware or kernel call it, below sys, if the processor says that there is one.
func hypervisor(sys, cpuinfo string) string {
	if name := file(filepath.Join(sys, "hypervisor/type")); name != "" {
		return name
	}
	if !slices.Contains(strings.Fields(cpuinfo), "hypervisor") {
		return "none"
	}
	vendor, product := file(filepath.Join(sys, "class/dmi/id/sys_vendor")), file(filepath.Join(sys, "class/dmi/id/product_name"))
	if name := strings.TrimSpace(vendor + " " + product); name != "" {
		return name
	}
	return "unnamed"
}

func memory(meminfo string) int64 {
	for _, line := range strings.Split(meminfo, "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			if err == nil {
				return kilobytes << 10
			}
		}
	}
	return 0
}

// mitigations says which weaknesses of the processor the kernel works around, and which it leaves open.
func mitigations(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var mitigated, open []string
	for _, e := range entries {
		switch state := file(filepath.Join(dir, e.Name())); {
		case strings.HasPrefix(state, "Mitigation"):
			mitigated = append(mitigated, e.Name())
		case strings.HasPrefix(state, "Not affected"), state == "":
		default:
			open = append(open, e.Name())
		}
	}
	list := func(all []string) string {
		if len(all) == 0 {
			return "none"
		}
		return strings.Join(all, ", ")
	}
	return "mitigated: " + list(mitigated) + "; open: " + list(open)
}

// conntrack is the limit of flows and the size of the table; 0 without the module.
func conntrack() (limit, buckets int) {
	read := func(name string) int {
		n, err := strconv.Atoi(file("/proc/sys/net/netfilter/" + name))
		if err != nil {
			return 0
		}
		return n
	}
	return read("nf_conntrack_max"), read("nf_conntrack_buckets")
}

// openFiles asks a shell, as Go raises its own soft limit.
func openFiles() string {
	out, err := exec.Command("sh", "-c", "echo $(ulimit -Sn) soft, $(ulimit -Hn) hard").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// jiffies are counted of all processors since the machine was started.
type jiffies struct {
	Steal int64 `json:"steal"`
	All   int64 `json:"all"`
}

func readJiffies() (jiffies, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return jiffies{}, err
	}
	return parseJiffies(string(text))
}

// parseJiffies reads the line cpu: user, nice, system, idle, iowait, irq, softirq, steal; what
// guests took is in user and nice.
func parseJiffies(stat string) (jiffies, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return jiffies{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var t jiffies
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return jiffies{}, fmt.Errorf("/proc/stat begins with %q: %w", line, err)
		}
		t.All += n
		if i == 7 {
			t.Steal = n
		}
	}
	return t, nil
}
