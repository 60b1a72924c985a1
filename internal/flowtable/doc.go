// Package flowtable has the kernel forward established flows of ours past its own chains,
// where the operator asks for it: a flowtable of nf_tables, in a table of its own.
//
//	table inet portway-flowtable
//	  flowtable flows    hook ingress, with the interfaces that were asked for
//	  chain forward      filter, behind all other chains of forward
//	    ct state established, our bit in the conntrack mark: flow add @flows
//
// A flow is added by a packet that passed everybody's forward chains, with its translation;
// from then on its packets go from interface to interface. docs/design/0010 says what they
// then pass by, and who should not ask for it. The table is apart from that of the rules, so
// that no failure here disturbs them: without it, or while it is made anew, packets go the
// long way.
//
// # Invariants
//
//   - What is in the kernel is what Listing says (TestListing).
//   - Established flows of ours are offloaded and nobody else's
//     (TestOffloadsOurFlows); whom conntrack forgets is no longer offloaded (the same).
//   - Interfaces that appear later are added, without touching what is there
//     (TestLaterInterfaces); what others delete is made again (TestMadeAgain).
//   - A kernel without flowtables is named with what it lacks (TestUnable), and Remove
//     succeeds there (the same).
package flowtable
