package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/portway-dev/portway/rules"
)

// prefix is what the names of all our chains begin with, see ours.
const prefix = "PORTWAY-"

// The chains that there is one of. PORTWAY-REFUSE and PORTWAY-EXCLUSIVE are in both tables.
const (
	servicesChain      = prefix + "SERVICES"
	refuseChain        = prefix + "REFUSE"
	exclusiveChain     = prefix + "EXCLUSIVE"
	postroutingChain   = prefix + "POSTROUTING"
	hairpinChain       = prefix + "HAIRPIN"
	filterChain        = prefix + "FILTER"
	unestablishedChain = prefix + "UNESTABLISHED"
	invalidChain       = prefix + "INVALID"
	unownedChain       = prefix + "UNOWNED"
	probeChain         = prefix + "PROBE"
)

// firewallChain is what internal/firewall has in the table filter beside our chains, with
// this backend or another one.
const firewallChain = prefix + "FORWARD"

// ours reports whether a chain of this name is this package's.
func ours(name string) bool { return strings.HasPrefix(name, prefix) && name != firewallChain }

// frontendChain is the name of a Frontend's chain: 24 characters, where the kernel
// takes 28 (XT_EXTENSION_MAXNAMELEN less the final zero). It depends on the key alone.
func frontendChain(key rules.FrontendKey) string {
	sum := sha256.Sum256([]byte(key.String()))
	return prefix + base32.StdEncoding.EncodeToString(sum[:10])
}

// bucketPorts is how many ports are told apart in one chain: what a packet passes of 10 000
// listeners is some 40 rules to find the chain, and 128 in it.
const bucketPorts = 256

// bucketPrefix is what the names of those chains begin with.
const bucketPrefix = prefix + "AT-"

// bucket is the chain for the Frontends of some neighbouring ports of an address, 27
// characters, and the rule of PORTWAY-SERVICES that leads to it. What is for none of them
// comes back, as the address may be exclusive.
func bucket(key rules.FrontendKey) (name, rule string) {
	first, last := key.Port/bucketPorts*bucketPorts, key.Port/bucketPorts*bucketPorts+bucketPorts-1
	first = max(first, 1) // no packet has port 0
	text := fmt.Sprintf("-d %s -p %[2]s -m %[2]s --dport %d:%d", host(key.Addr), key.Protocol, first, last)
	sum := sha256.Sum256([]byte(text))
	name = bucketPrefix + base32.StdEncoding.EncodeToString(sum[:10])
	return name, text + " -j " + name
}

// maxComment is the length in bytes to which names are cut in comments, the same as
// with nftables; the kernel takes 255 (XT_MAX_COMMENT_LEN), and a hash is behind it.
const maxComment = 128

// ownerComment names the Listener that a rule serves and the route on it.
func ownerComment(o rules.Owner) string {
	text := o.Gateway + "/" + o.Listener
	if o.Route != "" {
		text += " " + o.Route
	}
	return shorten(text)
}

// shorten makes a text fit into a comment, keeping both of its ends and, where that
// loses something, a hash of the whole. What iptables-save would escape becomes "_".
func shorten(text string) string {
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`"'\`, r) || r == 0x7f || r == utf8.RuneError {
			return '_'
		}
		return r
	}, text)
	if len(plain) <= maxComment {
		return plain
	}
	sum := sha256.Sum256([]byte(text))
	head := maxComment / 2
	tail := len(plain) - (maxComment - head - len("~00000000~"))
	for !utf8.RuneStart(plain[head]) {
		head--
	}
	for !utf8.RuneStart(plain[tail]) {
		tail++
	}
	return fmt.Sprintf("%s~%x~%s", plain[:head], sum[:4], plain[tail:])
}

// hashLength is that of a hash in a comment, in hex digits.
const hashLength = 16

// hashed gives an ordered chain the comment by which it is known again: who it is for
// and a hash of all its rules, on the first of them. What iptables-save prints of a
// rule differs between its versions, a comment does not.
func hashed(owner string, rules ...string) chain {
	h := sha256.New()
	for _, r := range rules {
		_, _ = h.Write([]byte(r + "\n")) // never fails
	}
	_, _ = h.Write([]byte(owner))
	sum := hex.EncodeToString(h.Sum(nil))[:hashLength]
	rules[0] = fmt.Sprintf("-m comment --comment \"%s #%s\" %s", owner, sum, rules[0])
	return chain{rules: rules, hash: sum}
}

// hashOf returns the hash in the comment of a chain's first rule, empty for none. Not all
// of a rule is printed in the order it was given.
func hashOf(rule string) string {
	_, comment, _ := strings.Cut(rule, `-m comment --comment "`)
	comment, _, _ = strings.Cut(comment, `"`)
	if at := len(comment) - hashLength; at > 0 && comment[at-1] == '#' {
		return comment[at:]
	}
	return ""
}
