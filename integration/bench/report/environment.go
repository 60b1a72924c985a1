package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// environment is what figures depend on but do not say.
type environment struct {
	Date   string `json:"date"`
	Commit string `json:"commit"`
	// Mode is quick or full; "" is the default.
	Mode   string `json:"mode,omitempty"`
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
	// Versions of what is compared with; "" : not there.
	Nft        string `json:"nft,omitempty"`
	HAProxy    string `json:"haproxy,omitempty"`
	Nginx      string `json:"nginx,omitempty"`
	Kubernetes string `json:"kubernetes,omitempty"`
	LoadBegin  string `json:"loadBegin"`
	LoadEnd    string `json:"loadEnd,omitempty"`
}

// here returns the environment of this process, whose working directory is in the repository.
func here() (environment, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return environment{}, err
	}
	commit, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	now, err := load()
	if err != nil {
		return environment{}, err
	}
	return environment{
		Date:       time.Now().UTC().Format(time.DateOnly),
		Commit:     strings.TrimSpace(string(commit)),
		Mode:       os.Getenv("BENCH"),
		Kernel:     strings.TrimSpace(string(kernel)),
		CPU:        cpu(),
		Cores:      runtime.NumCPU(),
		Go:         runtime.Version(),
		Nft:        version("nft", "--version"),
		HAProxy:    version("haproxy", "-v"),
		Nginx:      version("nginx", "-v"),
		Kubernetes: kubernetes(),
		LoadBegin:  now,
	}, nil
}

// load is the average load of 1, 5 and 15 minutes.
func load() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(string(text))[:3], " "), nil
}

func cpu() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer func() { _ = file.Close() }() // only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, model, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)?[-+.~\w]*`)

// version returns the first version that a program prints of itself.
func version(program, flag string) string {
	out, err := exec.Command(program, flag).CombinedOutput()
	if err != nil {
		return ""
	}
	return number.FindString(string(out))
}

// kubernetes is the version that the lab and kube-proxy are built of.
func kubernetes() string {
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return ""
	}
	text, err := os.ReadFile(strings.TrimSpace(string(out)) + "/integration/lab/kube/go.mod")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "\tk8s.io/kubernetes ")
	return number.FindString(rest)
}
