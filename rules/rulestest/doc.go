// Package rulestest holds what tests of both backends have in common: random States and
// packets, an interpreter for the rules of each, and a site where the kernel says whether
// they are right.
//
//	State ─┬─ State.Match ───────────────────────────────► Decision ─┐
//	       ├─ iptables.Render ─► ParseIptables ─► Walk ──► Fate ─────┼─ Check: each share
//	       ├─ nftables.Render ─► ParseNftables ─► Follow ► Fate ─────┘
//	       └─ Program ─┬─ nft list ─► the same             Fate ─────┐
//	                   └─ flows of a Site ───────────────► counts ───┴─ Plausible: chi-square
//
// An interpreter knows what our own rules consist of, in the words of iptables-save and of
// nft, and fails on anything else. It follows a new flow through the hooks and, where the
// kernel would draw or hash, follows every outcome with its exact probability, a hash being
// as good as a draw; so all of a Decision can be compared, and not a sample of it. That the
// kernel does as the interpreter says is what the Site is for. What a flow with the source
// address of an endpoint meets (hairpin) is interpreted, but not sampled.
//
// Invariants, each with the test that fails when it breaks:
//
//   - What is not understood is an error (TestParseNftables, TestFollow).
//   - Counts that chance does not make are told from those it makes (TestPlausible,
//     TestChiSquareTail).
package rulestest
