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

// environment is what figures depend on but do not say. What a machine does not tell is "" or 0.
type environment struct {
	Date   string `json:"date"`
	Commit string `json:"commit"`
	// Mode is quick or full; "" is the default.
	Mode string `json:"mode,omitempty"`
	// Unprivileged is a run that was not root.
	Unprivileged bool    `json:"unprivileged,omitempty"`
	Seconds      float64 `json:"seconds,omitempty"` // of the run
	machine
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
	// Versions of what is compared with; "" : not there.
	Nft        string `json:"nft,omitempty"`
	Iptables   string `json:"iptables,omitempty"` // with its variant
	HAProxy    string `json:"haproxy,omitempty"`
	Nginx      string `json:"nginx,omitempty"`
	Kubernetes string `json:"kubernetes,omitempty"`
	KubeProxy  string `json:"kubeProxy,omitempty"`
	LoadBegin  string `json:"loadBegin"`
	LoadEnd    string `json:"loadEnd,omitempty"`
	// Steal is the share of the processors' time that the hypervisor gave to others meanwhile.
	Steal *float64 `json:"steal,omitempty"`
}

// beginning is what begin prints: the environment, and what is counted from then on.
type beginning struct {
	environment
	Unix    int64   `json:"unix"`
	Jiffies jiffies `json:"jiffies"`
}

// here returns the environment of this process, whose working directory is in the repository.
func here() (beginning, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return beginning{}, err
	}
	commit, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	now, err := load()
	if err != nil {
		return beginning{}, err
	}
	stat, err := readJiffies()
	if err != nil {
		return beginning{}, err
	}
	began := time.Now().UTC()
	return beginning{Unix: began.Unix(), Jiffies: stat, environment: environment{
		Date:         began.Format(time.DateOnly),
		Commit:       strings.TrimSpace(string(commit)),
		Mode:         os.Getenv("BENCH"),
		Unprivileged: os.Geteuid() != 0,
		machine:      thisMachine(),
		Kernel:       strings.TrimSpace(string(kernel)),
		CPU:          cpu(),
		Cores:        runtime.NumCPU(),
		Go:           runtime.Version(),
		Nft:          version("nft", "--version"),
		Iptables:     iptables(),
		HAProxy:      version("haproxy", "-v"),
		Nginx:        version("nginx", "-v"),
		Kubernetes:   kubernetes(),
		KubeProxy:    version("kube-proxy", "--version"),
		LoadBegin:    now,
	}}, nil
}

// end completes the environment when the last part is over.
func (b beginning) end() (e environment, err error) {
	e = b.environment
	if e.LoadEnd, err = load(); err != nil {
		return e, err
	}
	if e.ConntrackMax == 0 { // nobody had loaded the module
		e.ConntrackMax, e.ConntrackBuckets = conntrack()
	}
	if b.Unix == 0 {
		return e, nil
	}
	e.Seconds = float64(time.Now().Unix() - b.Unix)
	now, err := readJiffies()
	if err != nil {
		return e, err
	}
	if all := now.All - b.Jiffies.All; all > 0 {
		steal := float64(now.Steal-b.Jiffies.Steal) / float64(all)
		e.Steal = &steal
	}
	return e, nil
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

// iptables is its version and variant: 1.8.9 (nf_tables).
func iptables() string {
	out, err := exec.Command("iptables", "--version").Output()
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "iptables v")
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
