// Package owner decides which node answers for which address.
//
// Each node writes one Record about itself, and nobody else does: for which addresses
// it is ready, and which it claims. Records travel from node to node (package members).
// From the Records of the members that are alive, each node computes the same owners:
//
//	one claimant, ready     it keeps the address, whatever a hash would say
//	several                 the oldest claim; the others yield
//	none                    rendezvous hashing with bounded load among who is ready
//
// What this package does not do: it knows no clock, no network and no Kubernetes. When
// a claim is made, and when it is given up, is package announce's business.
//
// # Claims
//
// A claim has a stamp, and the older one wins: of a cluster that was split, the part
// that owned an address before the split keeps it, and what one cut-off node claimed
// because it saw nobody else goes back to where it was. A stamp is a hybrid logical
// clock (Kulkarni et al., 2014) in ms of Unix time: at least the wall clock, and more than
// any stamp the node has seen for that address. A count of owners would not do: a node that has
// forgotten it, by a restart while it is cut off, would begin with the oldest. Where
// clocks differ by more than the split lasted, the younger claim may win; there is
// one owner even so. Equal stamps: the higher rendezvous weight, then the name.
//
// # Size
//
// A Record of 50 claims among 5 000 addresses that it is ready for takes 155 bytes, one of
// 1 667 claims (3 nodes) 3.4 KB: addresses are coded as ranges and differences, stamps as
// differences (BenchmarkRecord prints both). All Records of 100 nodes with 5 000 IPv4
// addresses, which is what two nodes exchange from time to time, take 16 KB.
//
// # Invariants
//
//   - The same input leads to the same owners, in whatever order it comes (TestAssignIsDeterministic).
//   - A live owner keeps its address; of two the older claim wins (TestAssign).
//   - After a cold start no node owns more than 1.25 × mean + 1; where nodes are not eligible
//     for everything, who owns more does so only because all that could take an address
//     from it are as full (TestAssignBoundsLoad).
//   - A node that goes moves nothing of others (TestAssignMovesNothing).
//   - A Record survives the wire; bytes from a stranger do no harm (TestRecordRoundTrip,
//     FuzzDecode).
package owner
