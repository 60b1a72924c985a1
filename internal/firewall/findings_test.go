package firewall

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// load has the node keep rules of another program.
func (f *fixture) load(ruleset string) {
	f.t.Helper()
	f.shell("nft -f - <<'E'\n" + strings.ReplaceAll(ruleset, "; }", ";\n}\n") + "\nE\n")
}

// cureOf is the command that a finding names.
func cureOf(t *testing.T, f Finding) string {
	t.Helper()
	_, command, found := strings.Cut(f.Message, "run: ")
	if !found {
		t.Fatalf("no cure in %q", f.Message)
	}
	return command
}

func TestForeignDropIsNamedAndCured(t *testing.T) {
	for _, test := range []struct {
		name, ruleset, reason string
		names                 []string
		blocks                bool
	}{
		{
			"policy", `table inet guard { chain passing { type filter hook forward priority 0; policy drop; } }`,
			ReasonDrops,
			[]string{"inet guard", "chain passing", "its policy drops"},
			true,
		},
		{
			"new", `table inet guard { chain passing { type filter hook forward priority 0; ct state vmap { established : accept, related : accept }; ct state new drop; } }`,
			ReasonDrops,
			[]string{"inet guard", "chain passing", `"ct state new drop" (handle `},
			true,
		},
		{
			"reject in a chain", `table inet guard { chain deny { meta l4proto { tcp, udp } reject; }
				chain passing { type filter hook forward priority 0; jump deny; } }`,
			ReasonDrops,
			[]string{"rule \"", "reject\" (handle ", "of chain deny"},
			true,
		},
		{
			"by interface", `table inet guard { chain passing { type filter hook forward priority 0; iifname "uplink" drop; } }`,
			ReasonMayDrop,
			[]string{`iifname "uplink" drop`, "may drop"},
			true,
		},
		{
			"some accepted", `table inet guard { chain passing { type filter hook forward priority 0; policy drop; ct state established accept; oifname "br0" accept; } }`,
			ReasonMayDrop,
			[]string{"its policy may drop"},
			true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.load(test.ruleset)
			if got := f.passes(netns.NodeAddr4, netns.NodeAddr6); got == test.blocks {
				t.Fatalf("flows pass: %t", got)
			}
			findings := f.ensure().Findings
			if len(findings) != 1 || findings[0].Reason != test.reason {
				t.Fatalf("findings %+v, want one %s", findings, test.reason)
			}
			for _, name := range test.names {
				if !strings.Contains(findings[0].Message, name) {
					t.Errorf("%q does not name %q", findings[0].Message, name)
				}
			}
			f.run(cureOf(t, findings[0]))
			if !f.passes(netns.NodeAddr4, netns.NodeAddr6) {
				t.Error("the cure does not help")
			}
			if findings := f.ensure().Findings; len(findings) > 0 {
				t.Errorf("the cure was run, and still: %v", findings)
			}
		})
	}
}

// firewalld makes its table anew when it starts, and may refuse others.
func TestCureOfFirewalld(t *testing.T) {
	f := newFixture(t)
	f.load(`table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; ct state { established, related } accept; reject with icmpx type admin-prohibited; } }`)
	findings := f.ensure().Findings
	if len(findings) != 1 || !strings.HasSuffix(findings[0].Message, "set StrictForwardPorts=no in /etc/firewalld/firewalld.conf and run: firewall-cmd --reload") {
		t.Errorf("findings %v", findings)
	}
}

// What does not concern our flows is no finding.
func TestHarmlessRulesAreNoFinding(t *testing.T) {
	for name, ruleset := range map[string]string{
		"firewalld": `table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept;
			ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop; reject with icmpx type admin-prohibited; } }`,
		"our own in iptables": `table ip filter { chain PORTWAY-REFUSE { drop; }
			chain FORWARD { type filter hook forward priority 0; meta mark 0x77 jump PORTWAY-REFUSE; } }`,
		"states":        `table inet guard { chain passing { type filter hook forward priority 0; policy drop; ct state established,related,new accept; } }`,
		"both families": `table inet guard { chain passing { type filter hook forward priority 0; policy drop; meta l4proto tcp accept; meta l4proto udp accept; } }`,
		"blocklist": `table inet guard { set bad { type ipv4_addr; }
			chain passing { type filter hook forward priority 0; ip saddr @bad drop; ip saddr 198.18.0.0/15 drop; ip saddr { 203.0.113.7, 203.0.113.9 } drop; } }`,
		"elsewhere": `table inet guard { chain passing { type filter hook forward priority 0; ip daddr 169.254.169.254 drop; ip daddr 10.99.0.0/16 reject; tcp dport { 25, 465 } drop; tcp dport 137-139 drop; ip protocol icmp drop; } }`,
		"input":     `table inet guard { chain in { type filter hook input priority 0; policy drop; meta l4proto ipv6-icmp accept; } }`,
		"marks": `table inet guard { chain pre { type filter hook prerouting priority -150; ct state new ct mark set 0x1; }
			chain post { type filter hook postrouting priority 0; ct mark set ct mark and 0xffffff00 or 0x1; meta mark set ct mark; } }`,
		"kube-proxy": `table ip kube-proxy { chain passing { type filter hook forward priority -110; ct state new ip daddr 10.96.0.0/12 reject; iifname "cni9" reject; } }`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.load(ruleset)
			if result := f.ensure(); len(result.Findings) > 0 || result.Changed {
				t.Errorf("%+v", result)
			}
			if !f.passes(netns.NodeAddr4, netns.NodeAddr6) {
				t.Error("our flows are dropped")
			}
		})
	}
}

func TestMarkDestroyersAreNamed(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		names  []string
	}{
		"nft": {
			`table inet qos { chain passing { type filter hook forward priority -150; ct mark set 0x1; } }`, []string{"table inet qos", "chain passing", `"ct mark set 0x1" (handle `, "clears bit 0x1000"},
		},
		"meta mark": {
			`table inet qos { chain post { type filter hook postrouting priority -150; ct mark set meta mark; } }`, []string{"chain post", `"ct mark set mark"`},
		},
		"forged": {
			`table inet qos { chain passing { type filter hook forward priority -150; ct mark set ct mark or 0xff00; } }`, []string{"sets bit 0x1000", "not ours"},
		},
		"iptables-nft":    {"iptables-nft -t mangle -A FORWARD -j CONNMARK --set-mark 0x1", []string{"iptables-nft table mangle", "chain FORWARD", "--set-xmark 0x1/0xffffffff"}},
		"iptables-legacy": {"iptables-legacy -t mangle -A POSTROUTING -j CONNMARK --save-mark", []string{"iptables-legacy table mangle", "chain POSTROUTING", "--save-mark"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if strings.HasPrefix(test.script, "table") {
				f.load(test.script)
			} else {
				f.shell(test.script)
			}
			findings := f.ensure().Findings
			if len(findings) != 1 || findings[0].Reason != ReasonMark {
				t.Fatalf("findings %+v", findings)
			}
			for _, name := range test.names {
				if !strings.Contains(findings[0].Message, name) {
					t.Errorf("%q does not name %q", findings[0].Message, name)
				}
			}
			t.Log(findings[0].Message)
		})
	}
}

// Flows to endpoints at the node's own addresses pass INPUT, where nothing is opened.
func TestInputIsNamedAndCured(t *testing.T) {
	for name, test := range map[string]struct{ script, named string }{
		"nft": {
			`nft add table inet guard; nft 'add chain inet guard in { type filter hook input priority 0; policy drop; }'; nft add rule inet guard in meta l4proto ipv6-icmp accept`,
			"nftables table inet guard, chain in: its policy drops flows to endpoints at addresses of this node",
		},
		"iptables-nft":    {`iptables-nft -P INPUT DROP`, "iptables-nft table filter, chain INPUT: its policy drops"},
		"iptables-legacy": {`iptables-legacy -A INPUT -p tcp -j REJECT`, `iptables-legacy table filter, chain INPUT: rule "-p tcp -j REJECT --reject-with icmp-port-unreachable" drops`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.shell(test.script)
			if findings := f.ensure().Findings; len(findings) > 0 {
				t.Errorf("no endpoint is concerned, and still: %v", findings)
			}
			f.traffic.State = one(frontend("192.0.2.1", rules.TCP, 9000), "192.0.2.1:6001").State
			result := f.ensure()
			if result.Changed || len(result.Findings) != 1 || !strings.HasPrefix(result.Findings[0].Message, test.named) {
				t.Fatalf("%+v, want %s", result, test.named)
			}
			f.run(cureOf(t, result.Findings[0]))
			if findings := f.ensure().Findings; len(findings) > 0 {
				t.Errorf("the cure was run, and still: %v", findings)
			}
		})
	}
}

// iptables-nft refuses a table that holds rules of nft: then it is one like others.
func TestTableThatIPTablesRefuses(t *testing.T) {
	f := newFixture(t)
	f.shell(`iptables-nft -P FORWARD DROP; nft insert rule ip filter FORWARD ct mark and 0x4 == 0x4 accept`)
	result := f.ensure()
	if result.Changed || len(result.Findings) != 1 || !strings.HasPrefix(result.Findings[0].Message, "nftables table ip filter, chain FORWARD: its policy may drop") {
		t.Fatalf("%+v", result)
	}
	f.run(cureOf(t, result.Findings[0]))
	if findings := f.ensure().Findings; len(findings) > 0 {
		t.Errorf("the cure was run, and still: %v", findings)
	}
	if !f.passes(netns.NodeAddr4) {
		t.Error("the cure does not help")
	}
	f.do(func() error { return f.firewall.Remove(t.Context()) })
}

// Where the agent runs there may be no iptables; the host's own is used by people.
func TestWithoutTools(t *testing.T) {
	f := newFixture(t)
	f.iptables("nft", "-P FORWARD DROP")
	f.iptables("legacy", "-P FORWARD DROP")
	t.Setenv("PATH", t.TempDir())
	findings := f.ensure().Findings
	f.do(func() error { return f.firewall.Remove(t.Context()) })
	t.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	if len(findings) != 4 {
		t.Fatalf("%d findings: %v", len(findings), findings)
	}
	for _, finding := range findings {
		if finding.Reason != ReasonNotOpened {
			t.Errorf("reason %s", finding.Reason)
		}
		command, _, _ := strings.Cut(cureOf(t, finding), " (")
		f.run(command)
	}
	if !f.passes(netns.NodeAddr4, netns.NodeAddr6) {
		t.Error("the cures do not help")
	}
}

// iptables-legacy needs a capability that iptables-nft does not.
func TestToolThatFails(t *testing.T) {
	f := newFixture(t)
	f.run("iptables-legacy -P FORWARD DROP")
	dir := t.TempDir()
	f.shell("cd " + dir + `
printf '#!/bin/sh\necho "iptables v1.8.9 (legacy)"\n' > iptables-legacy
printf '#!/bin/sh\necho "Cannot initialize: Permission denied" >&2; exit 3\n' > iptables-legacy-save
chmod +x iptables-legacy*`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	result := f.ensure()
	if len(result.Findings) != 1 || result.Findings[0].Reason != ReasonNotOpened ||
		!strings.Contains(result.Findings[0].Message, "iptables-legacy, which fails where the agent runs (iptables-legacy-save: Cannot initialize: Permission denied: exit status 3; does it have CAP_NET_RAW?)") {
		t.Errorf("%+v", result)
	}
}

// Findings are told only when they change, and fit into a NodeReport.
func TestFindingsAreStable(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("x", 120)
	f.shell("for t in a b " + long + "; do nft add table inet $t; nft \"add chain inet $t " + long + " { type filter hook forward priority 0; policy drop; }\"; done")
	first := f.ensure().Findings
	if len(first) != 3 {
		t.Fatalf("%d findings", len(first))
	}
	f.passes(netns.NodeAddr4)
	f.load("table inet z { }")
	if diff := cmp.Diff(first, f.ensure().Findings); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	for _, finding := range first {
		if len(finding.Message) > maxMessage {
			t.Errorf("%d bytes", len(finding.Message))
		}
	}
}
