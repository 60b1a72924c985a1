// Package layer2 answers ARP requests (RFC 826) and IPv6 neighbour solicitations
// (RFC 4861) for addresses that are on no interface: this node is where packets to them
// enter, and the rules of the data plane see to the rest.
//
//	who-has 192.0.2.7? ──► packet socket per interface and family ──► filter ──► answer
//	192.0.2.7 is-at …  ──► (AF_PACKET, before the IP layer)                └──► a stranger?
//
// Packet sockets see requests and claims before the IP layer, so that neither arp_ignore
// nor a firewall decides what is answered, and neighbour solicitations to the address itself,
// which the kernel would forward, are seen, too. A filter in the kernel passes what
// concerns our addresses; other ARP on a busy segment wakes nobody. Every IPv6 packet
// that arrives where IPv6 addresses are answered passes its first two instructions, which
// is 0.3 µs (BenchmarkFilter).
//
// # An address's course
//
// What nobody in the cluster has had is asked for first (ARP probe, DAD), half a second;
// what a member had is announced at once and asked for after that. Announcements
// are gratuitous ARP in both forms and unsolicited neighbour advertisements with the
// override flag. An address of ours that a stranger claims is defended once and given
// up the second time within 10 s (RFC 5227, 2.4 (b)), so that no single forged frame
// takes it away; it is looked at again every 30 s. As a stranger need not say anything,
// each address of ours is asked for every 5 minutes.
//
// # What this package does not do
//
// It does not decide who owns what (package owner), and puts no address on an
// interface. Switches that answer ARP themselves from what they have snooped are not
// noticed. It does not see claims that only other hosts get, such as answers by unicast.
//
// # Invariants
//
//   - Frames are what the RFCs say (TestFrames); what is malformed is ignored
//     (TestParserRefuses, FuzzParse).
//   - Who asks is answered, by multicast and unicast, and nobody else is (TestAnswers);
//     who probes is answered, too (TestDefendsAgainstDetection).
//   - Neighbours learn of a take-over without asking (TestTakeOverUpdatesNeighbours).
//   - An address that a stranger has is not announced, and is once he is gone
//     (TestStrangerIsFoundBefore, TestStrangerIsFoundLater). One claim takes nothing away,
//     and peers are no strangers (TestOneClaimIsDefended); one that is heard on two interfaces of
//     a segment is one (TestTwoInterfacesOnOneSegment). Who has the address is told without
//     going to and fro between several (TestStrangerIsKept).
//   - Interfaces are followed as they come, go and change (TestInterfacesComeAndGo,
//     TestKindsOfInterfaces, TestTwoInterfacesOnOneSegment), and those that no host can be on are not used
//     (TestListLinks, TestLinksOf).
//   - What others ask each other wakes nobody (TestBusySegment, TestFilters), and no
//     number of addresses makes a filter too long (TestFilterOfMany, TestBlocks).
//   - All solicited-node groups are joined, however many there are (TestManyGroups).
//   - Without NET_RAW the error names it and the cure (TestWithoutRight).
package layer2
