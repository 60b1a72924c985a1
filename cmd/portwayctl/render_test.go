package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

func TestRender(t *testing.T) {
	code, stdout, stderr := ctl("render", "-f", routes, "-f", backends, "--node-name", "demo-node")
	if code != 0 || stderr != "" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"table inet portway {", "192.0.2.1 . tcp . 8080", "10.244.1.11 . 6000", "default/my-tcp-gateway/foo default/tcp-app-1"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	_, full, _ := ctl("render", "-f", routes, "-f", backends, "--full")
	if len(full) <= len(stdout) {
		t.Error("--full prints no more")
	}
	hints := strings.NewReplacer("[10.244.1.10]", "[10.244.1.10]\n  hints: {forZones: [{name: z1}]}", "[10.244.1.11]", "[10.244.1.11]\n  hints: {forZones: [{name: z2}]}")
	hinted := file(t, "h.yaml", hints.Replace(read(t, backends)))
	if _, stdout, _ := ctl("render", "-f", routes, "-f", hinted, "--node-zone", "z2"); strings.Contains(stdout, ": 10.244.1.10 . 6000") || !strings.Contains(stdout, ": 10.244.1.11 . 6000") {
		t.Errorf("zone z2:\n%s", stdout)
	}
	if _, stdout, _ := ctl("render", "-f", routes, "-f", hinted); !strings.Contains(stdout, "10.244.1.10") || !strings.Contains(stdout, "10.244.1.11") {
		t.Errorf("no zone:\n%s", stdout)
	}
	slice := strings.Replace(read(t, backends), "10.244.1.20", "127.0.0.1", 1)
	if code, _, stderr := ctl("render", "-f", routes, "-f", file(t, "b.yaml", slice)); code != 0 || !strings.Contains(stderr, "endpoint left out: ") {
		t.Errorf("warning: code %d, stderr %q", code, stderr)
	}
}

// TestRenderIPTables has both variants take what is printed for each family, and looks at
// what they then hold.
func TestRenderIPTables(t *testing.T) {
	render := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := ctl(append([]string{"render", "--backend", "iptables", "-f", routes, "-f", backends}, args...)...)
		if code != 0 || stderr != "" {
			t.Errorf("code %d, stderr %q", code, stderr)
		}
		return stdout
	}
	four, six := render("--family", "ipv4"), render("--family", "ipv6")
	if diff := cmp.Diff(four+"\n"+six, render()); diff != "" {
		t.Errorf("both families (-want +got):\n%s", diff)
	}
	for _, variant := range []string{"nft", "legacy"} {
		ns := netns.ForTest(t, "host")
		if _, err := ns.Output("iptables-"+variant, "-t", "nat", "-L", "-n"); err != nil {
			netns.Lacks(t, "iptables-"+variant, err)
		}
		for _, f := range []struct {
			command, title, text string
			holds                []string
		}{
			{"iptables-" + variant, "# IPv4, for iptables-restore --noflush\n*filter\n", four, []string{
				"-A PREROUTING -j PORTWAY-SERVICES", "-d 192.0.2.1/32 -p tcp -m tcp --dport 8080 ",
				"-j DNAT --to-destination 10.244.1.11:6000", "default/my-tcp-gateway/foo default/tcp-app-1",
			}},
			{"ip6tables-" + variant, "# IPv6, for ip6tables-restore --noflush\n*filter\n", six, []string{
				"-A PREROUTING -j PORTWAY-SERVICES", "-d 2001:db8::1/128 -p tcp -m tcp --dport 8080 ", "-g PORTWAY-REFUSE",
			}},
		} {
			if !strings.HasPrefix(f.text, f.title) {
				t.Errorf("%s: want %q first in\n%s", f.command, f.title, f.text)
			}
			path := file(t, filepath.Base(f.command), f.text)
			saved, err := ns.Output("sh", "-ec", f.command+"-restore --noflush "+path+"; "+f.command+"-save")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range f.holds {
				if !strings.Contains(saved, want) {
					t.Errorf("%s holds no %q:\n%s", f.command, want, saved)
				}
			}
		}
	}
}

func TestRenderErrors(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--backend ebpf", "portwayctl: --backend \"ebpf\": must be nftables or iptables\n"},
		{"--backend auto", "portwayctl: --backend \"auto\": must be nftables or iptables\n"},
		{"--backend iptables --family 4", "portwayctl: --family \"4\": must be ipv4 or ipv6\n"},
		{"--family ipv4", "portwayctl: --family needs --backend iptables: with nftables one table holds both\n"},
		{"--backend iptables --full", "portwayctl: --full needs --backend nftables: iptables has no chains that nothing leads to\n"},
	} {
		code, stdout, stderr := ctl(append([]string{"render", "-f", routes}, strings.Fields(test.args)...)...)
		if code != 1 || stdout != "" || stderr != test.want {
			t.Errorf("%s: code %d, stderr %q, want %q", test.args, code, stderr, test.want)
		}
	}
}
