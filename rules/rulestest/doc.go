// Package rulestest holds what tests of backends have in common: random States, and an
// interpreter of the rules that package rules/iptables makes.
//
// The interpreter knows the matches and targets that those rules use and fails on any
// other. It follows a new flow through the hooks and, where the kernel would draw, follows
// every outcome with its exact probability; so all of a Decision of rules.State.Match can
// be compared, and not a sample of it. That the kernel does as the interpreter says is for
// tests with traffic to show.
package rulestest
