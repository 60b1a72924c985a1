// Package netfilter asks the kernel for the rules it has, as it has them: nf_tables over
// netlink, xtables (iptables-legacy) by getsockopt. It is for those who look often, as it
// runs no program and changes nothing, and in the network namespace of the thread that
// calls.
//
// What the package does not do: it does not say what rules mean.
//
// Invariants:
//
//   - Nobody's table is made by looking (TestTablesMakesNone).
//   - The chains of a table of xtables are those that iptables shows, with as many rules
//     (TestChainsOfXTables).
package netfilter
