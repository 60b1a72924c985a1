package nftables

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// lacking is a kernel that refuses what a feature needs.
func lacking(names ...string) prober {
	return func(_ Config, all []feature) error {
		for _, f := range all {
			if slices.Contains(names, f.name) {
				return &netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", unix.EOPNOTSUPP)}
			}
		}
		return nil
	}
}

func TestProbeNamesTheFeatureAndTheKernel(t *testing.T) {
	_, c := inNamespace(t)
	for _, f := range features(c) {
		p, err := open(c, lacking(f.name))
		if err == nil {
			if f.without == "" {
				t.Errorf("%s: no error", f.name)
			}
			got := strings.Join(p.Limitations(), "\n")
			for _, want := range []string{f.name, f.cure, f.without, kernelRelease()} {
				if !strings.Contains(got, want) {
					t.Errorf("limitations %q do not tell of %q", got, want)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		var unable *UnableError
		if !errors.As(err, &unable) || unable.Feature != f.name || !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v", f.name, err)
		}
		for _, want := range []string{f.name, f.cure, kernelRelease()} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not tell of %q", err, want)
			}
		}
	}
	if got := newProgrammer(t, c).Limitations(); len(got) > 0 {
		t.Errorf("this kernel has everything: %v", got)
	}
	_, err := open(c, func(Config, []feature) error { return unix.ENOBUFS })
	if unable := (*UnableError)(nil); err == nil || errors.As(err, &unable) {
		t.Errorf("%v: an error of the socket says nothing of the kernel", err)
	}
}

// What is known to fail on any kernel fails in the probe, too: it tries where it counts.
func TestProbeTriesInTheHook(t *testing.T) {
	_, c := inNamespace(t)
	for _, f := range features(c) {
		if err := try(c, []feature{f}); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if err := try(c, []feature{{add: inChains(newLayout(c, everything), resetTCP(), postroutingChain)}}); !rejected(err) {
		t.Errorf("reject in nat postrouting: %v, want that the kernel refuses it", err)
	}
}

// Without reject a TCP client that is to be refused times out, everything else works,
// and the two forms of the table take each other's place.
func TestWithoutReject(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	other := key("127.1.0.1 tcp 81")
	s := stateOf(map[rules.FrontendKey]*rules.Frontend{
		frontKey: {Owner: owner("ns/gw", "empty", "ns/r")},
		other:    {Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{backend("ns/a", 1, local(serverAddr(0).String(), ""))}},
	})
	refused := func() error {
		return ns.Do(func() error {
			conn, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).Dial("tcp", netip.AddrPortFrom(frontKey.Addr, frontKey.Port).String())
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
	full := newProgrammer(t, c)
	mustProgram(t, full, s)
	if err := refused(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("with reject: %v, want that it is refused", err)
	}

	want := nft(t, ns, "list", "table", "inet", "portway")
	p, err := open(c, lacking("reject in nat prerouting"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if n := mustProgram(t, p, s); n != 0 {
		t.Errorf("%d operations on elements", n)
	}
	degraded := nft(t, ns, "list", "table", "inet", "portway")
	answers := regexp.MustCompile(`\t\t(meta l4proto (tcp|udp) .*reject|ct state invalid counter).*\n`)
	if diff := cmp.Diff(answers.ReplaceAllString(canonical(want), ""), canonical(degraded)); diff != "" {
		t.Errorf("(-want +degraded):\n%s", diff)
	}
	var timeout net.Error
	if err := refused(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("without reject: %v, want a timeout", err)
	}
	if number, err := ask(ns, netip.MustParseAddr("127.3.0.1"), netip.AddrPortFrom(other.Addr, other.Port)); err != nil || number != 0 {
		t.Errorf("without reject: server %d, %v", number, err)
	}
	if n := mustProgram(t, p, s); n != 0 || p.Stats().Altered != 0 {
		t.Errorf("%d operations, %+v", n, p.Stats())
	}
	mustProgram(t, newProgrammer(t, c), s)
	if err := refused(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("with reject again: %v, want that it is refused", err)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	_, c := inNamespace(t)
	if err := Probe(c); err != nil {
		t.Errorf("with all rights: %v", err)
	}
	c.NetNS = 0 // its socket is then opened by this very thread
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends without its rights
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
			got <- err
			return
		}
		_, err := New(c)
		got <- err
	}()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") || !errors.Is(err, unix.EPERM) {
		t.Errorf("without rights: %v", err)
	}
}

// A probe that was killed between its two commits leaves a table: the next one removes it,
// and so does Cleanup. What is only named alike stays.
func TestWhatAProbeLeftIsRemoved(t *testing.T) {
	ns, c := inNamespace(t)
	const left = "portway-probe-0123456789abcdef"
	for _, name := range []string{"inet portway-probe-", "inet " + left + "0", "inet portway-probe-0123456789abcdeg", "inet other-" + left, "ip " + left} {
		nft(t, ns, "add table "+name)
	}
	leave := func() {
		nft(t, ns, "add table inet "+left+"; add chain inet "+left+" c { type nat hook output priority 0; }")
	}
	before := nft(t, ns, "--handle", "list", "ruleset")
	leave()
	p := newProgrammer(t, c)
	if diff := cmp.Diff(before, nft(t, ns, "--handle", "list", "ruleset")); diff != "" {
		t.Errorf("New (-before +after):\n%s", diff)
	}
	leave()
	if err := p.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, nft(t, ns, "--handle", "list", "ruleset")); diff != "" {
		t.Errorf("Cleanup (-before +after):\n%s", diff)
	}
	if err := deleteTable(c, left); err != nil { // somebody else was quicker
		t.Error(err)
	}
}

func TestProbeLeavesOthersAlone(t *testing.T) {
	ns, c := inNamespace(t)
	for _, command := range []string{
		"add table inet portway-probe",
		"add chain inet portway-probe probe",
		"add rule inet portway-probe probe counter accept",
	} {
		nft(t, ns, strings.Fields(command)...)
	}
	before := nft(t, ns, "--handle", "list", "ruleset")
	if err := Probe(c); err != nil {
		t.Error(err)
	}
	c.Table = "portway-probe" // by chance
	if err := try(c, features(c)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("%v, want EEXIST", err)
	}
	if diff := cmp.Diff(before, nft(t, ns, "--handle", "list", "ruleset")); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	c.Table = strings.Repeat("p", 100)
	if err := Probe(c); err != nil {
		t.Errorf("with the longest name: %v", err)
	}
}
