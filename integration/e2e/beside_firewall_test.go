package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// guarded is the node whose firewalls change.
const guarded = 1

// docker is what Docker makes of iptables, its FORWARD policy above all.
const docker = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`

// families are the programs of both address families in a variant.
func families(variant string) []string {
	return []string{"iptables-" + variant, "ip6tables-" + variant}
}

// forwardDrop: Docker comes, in one variant of iptables and then in the other, too, and
// somebody restores what was saved without our chain. Each time new flows pass again
// within two seconds, and what is established goes on.
func (b *beside) forwardDrop(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	held := b.hold(t)
	blocked := 0
	for _, variant := range []string{"nft", "legacy"} {
		for _, program := range families(variant) {
			b.feed(t, guarded, docker, program+"-restore", "--noflush")
		}
		blocked += b.passes(t, "Docker in "+variant)
		blocked += b.restore(t, variant)
		for _, program := range families(variant) {
			if saved := b.on(t, guarded, program+"-save", "-t", "filter"); !strings.Contains(saved, "-A DOCKER-USER -j PORTWAY-FORWARD\n") {
				t.Errorf("no jump of ours in Docker's chain for others:\n%s", saved)
			}
		}
	}
	if blocked == 0 {
		t.Error("nobody was ever blocked: this run shows nothing")
	}
	held(t)
	b.finds(t, 0)
	for _, variant := range []string{"nft", "legacy"} {
		for _, program := range families(variant) {
			b.on(t, guarded, program, "-P", "FORWARD", "ACCEPT")
		}
	}
}

// reload: somebody restores what was saved before our rules were there, all of them.
func (b *beside) reload(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	if b.restore(t, "nft") == 0 {
		t.Error("nobody was ever blocked: this run shows nothing")
	}
	b.everythingServes(t)
}

// restore gives iptables back what it had, but for what is ours.
func (b *beside) restore(t *testing.T, variant string) (blocked int) {
	t.Helper()
	for _, program := range families(variant) {
		var theirs strings.Builder
		for line := range strings.Lines(b.on(t, guarded, program+"-save")) {
			if !strings.Contains(line, "PORTWAY") {
				theirs.WriteString(line)
			}
		}
		b.feed(t, guarded, theirs.String(), program+"-restore")
	}
	return b.passes(t, "restored in "+variant)
}

// passes waits until new flows pass through the guarded node, and returns how many did not
// until then.
func (b *beside) passes(t *testing.T, after string) (blocked int) {
	t.Helper()
	const patience = 200 * time.Millisecond
	took := eventually(t, settle, func() error {
		for _, addr := range b.Node(guarded).Addresses {
			for _, network := range []string{"tcp", "udp"} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := b.ask(ctx, network, join(addr, oursPort))
				cancel()
				if err != nil {
					blocked++
					return err
				}
			}
		}
		return nil
	})
	t.Logf("%s: new flows pass after %s, %d did not until then", after, took.Round(time.Millisecond), blocked)
	return blocked
}

// hold opens a connection through the guarded node; what it returns fails the test unless
// the connection still works.
func (b *beside) hold(t *testing.T) func(*testing.T) {
	t.Helper()
	conn, err := b.Outside().Dial(t.Context(), "tcp", join(b.Node(guarded).Addresses[0], oursPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	reader := bufio.NewReader(conn)
	echoes(t, conn, reader) // who it is
	return func(t *testing.T) {
		t.Helper()
		if _, err := conn.Write([]byte("still there\n")); err != nil {
			t.Fatal(err)
		}
		if line := echoes(t, conn, reader); line != "still there\n" {
			t.Errorf("got %q back", line)
		}
	}
}

func echoes(t *testing.T, conn net.Conn, reader *bufio.Reader) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
		t.Fatal(err)
	}
	line, err := reader.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// finds waits until the guarded node has so many findings and all of them name the words.
func (b *beside) finds(t *testing.T, count int, words ...string) (messages []string) {
	t.Helper()
	eventually(t, settle, func() error {
		r, err := b.report(t.Context(), guarded)
		if err != nil {
			return err
		}
		if len(r.Findings) != count {
			return fmt.Errorf("findings are %+v, want %d", r.Findings, count)
		}
		messages = nil
		for _, f := range r.Findings {
			for _, word := range words {
				if !strings.Contains(f.Message, word) {
					return fmt.Errorf("%s: %s: does not name %q", f.Reason, f.Message, word)
				}
			}
			messages = append(messages, f.Message)
		}
		return nil
	})
	return messages
}

// foreignDrop: a table of somebody else drops. The NodeReport names table, chain, rule and
// the cure, which helps, and then says nothing.
func (b *beside) foreignDrop(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	b.feed(t, guarded, `table inet guard {
	chain passing {
		type filter hook forward priority filter; policy accept;
		tcp dport 6000 drop
	}
}
`, "nft", "-f", "-")
	finding := b.finds(t, 1, "inet guard", "chain passing", "dport 6000 drop", "run: ")[0]
	t.Log(finding)
	addr := join(b.Node(guarded).Addresses[0], oursPort)
	if pod, err := b.ask(t.Context(), "tcp", addr); err == nil {
		t.Errorf("%s answers although it is dropped", pod)
	}
	_, cure, _ := strings.Cut(finding, "run: ")
	b.on(t, guarded, "sh", "-c", cure)
	b.reach(t, "tcp", addr, "ours")
	b.finds(t, 0)
	b.on(t, guarded, "nft", "delete", "table", "inet", "guard")
}

// firewalld, as it comes: what is translated passes, the rest of what is forwarded does
// not, and a reload makes its table anew. Our flows do not notice.
func (b *beside) firewalld(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	const table = `table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
}
`
	const reloads = 10
	addr := b.Node(guarded).Addresses
	b.during(t, func() {
		b.feed(t, guarded, table, "nft", "-f", "-")
		for range reloads {
			b.on(t, guarded, "nft", "delete", "table", "inet", "firewalld")
			b.feed(t, guarded, table, "nft", "-f", "-")
		}
		b.finds(t, 0)
	}, []*stream{b.stream(t, "tcp", join(addr[0], oursPort)), b.stream(t, "udp", join(addr[1], oursPort))})
	b.on(t, guarded, "nft", "delete", "table", "inet", "firewalld")
}
