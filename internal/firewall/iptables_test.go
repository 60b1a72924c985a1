package firewall

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What becomes of the flows of one in FORWARD, rule by rule.
func TestIPTablesRules(t *testing.T) {
	for _, test := range []struct {
		rules string
		want  string // "": passes
	}{
		{`-j DROP`, "drops"},
		{`-p tcp -j REJECT --reject-with tcp-reset`, "drops"},
		{`-p udp -j DROP`, ""},
		{`! -p udp -j DROP`, "drops"},
		{`-m conntrack --ctstate INVALID -j DROP`, ""},
		{`-m state --state NEW -j DROP`, "drops"},
		{`-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`, ""},
		{`-i eth0 -j DROP`, "may drop"},
		{`-i lo -j DROP`, ""},
		{`-s 192.0.2.0/24 -j DROP`, ""},
		{`-m set --match-set f2b-sshd src -j REJECT`, ""},
		{`-m set --match-set allowed dst -j REJECT`, "may drop"},
		{`-d 10.0.0.0/8 -j DROP`, "may drop"},
		{`-d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j REJECT`, ""},
		{`! -d 10.96.0.0/16 -j DROP`, "drops"},
		{`-p tcp -m multiport --dports 25,465 -j DROP`, ""},
		{`-p tcp -m multiport --dports 25,70:90 -j DROP`, "may drop"},
		{`-m addrtype --dst-type LOCAL -j DROP`, ""},
		{`-m comment --comment "-p udp \"-j\" x" -j DROP`, "drops"},
		{`-m limit --limit 5/min -j LOG` + "\n" + `-A FORWARD -j DROP`, "drops"},
		{`-j NFLOG --nflog-group 1`, ""},
		{`-m connmark --mark 0x1000/0x1000 -j ACCEPT` + "\n" + `-A FORWARD -j DROP`, ""},
		{`-m connmark --mark 0x1 -j ACCEPT` + "\n" + `-A FORWARD -j DROP`, "drops"},
		{`-m connmark ! --mark 0x1000/0x1000 -j DROP`, ""},
		{`-m mark --mark 0x1 -j ACCEPT` + "\n" + `-A FORWARD -j DROP`, "may drop"},
		{`-o br0 -j SUB` + "\n" + `-A SUB -j DROP`, "may drop"},
		{`-j SUB` + "\n" + `-A SUB -p tcp -j RETURN` + "\n" + `-A SUB -j DROP`, ""},
		{`-j SUB` + "\n" + `-A SUB -i eth0 -j RETURN` + "\n" + `-A SUB -j DROP`, "may drop"},
		{`-g SUB` + "\n" + `-A FORWARD -j DROP`, ""},
		{`-j SUB` + "\n" + `-A SUB -j SUB` + "\n" + `-A SUB -j SUB`, ""}, // no program makes it, and it ends
		{`-j cali-FORWARD` + "\n" + `-A cali-FORWARD -j DROP`, ""},
	} {
		table, err := parseSave(tool{}, "filter", "*filter\n:FORWARD ACCEPT [0:0]\n:SUB - [0:0]\n:cali-FORWARD - [0:0]\n-A FORWARD "+test.rules+"\nCOMMIT\n")
		if err != nil {
			t.Errorf("%s: %v", test.rules, err)
			continue
		}
		traffic := one(frontend("192.0.2.1", 6, 8080), "10.0.0.1:80")
		p := new(census).profile(traffic)
		got := ""
		if s := table.stops(table.chain("FORWARD"), p.packets(forward, testMark, &destinations{state: traffic.State})); s != nil {
			if got = "may drop"; s.certain {
				got = "drops"
			}
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.rules, got, test.want)
		}
	}
}

func TestConnmark(t *testing.T) {
	for options, want := range map[string]markChange{
		"--set-xmark 0x1/0xffffffff":                          markLost,
		"--set-mark 0x1":                                      markLost,
		"--set-xmark 0x1/0xff":                                markKept,
		"--set-xmark 0x1000/0x1000":                           markForged,
		"--set-xmark 0xffffffff/0xffffffff":                   markForged,
		"--save-mark --nfmask 0xffffffff --ctmask 0xffffffff": markLost,
		"--save-mark --nfmask 0xff --ctmask 0xff":             markKept,
		"--restore-mark --nfmask 0xffffffff --ctmask 0xff":    markKept,
	} {
		if got := connmark(strings.Fields(options), testMark); got != want {
			t.Errorf("%s: %d, want %d", options, got, want)
		}
	}
}

func TestSplitWords(t *testing.T) {
	got, err := splitWords(`-A FORWARD -m comment --comment "a \"b\" \\ c" -j DROP`)
	want := []string{"-A", "FORWARD", "-m", "comment", "--comment", `a "b" \ c`, "-j", "DROP"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := splitWords(`-A FORWARD --comment "open`); err == nil {
		t.Error("an open quote is taken")
	}
}
