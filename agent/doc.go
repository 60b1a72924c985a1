// Package agent is the program that runs on a node: it takes API objects of a
// cluster or from files, lets the core decide and keeps the node's kernel equal to
// the decision.
//
//	Store.Next ─► topology.Build ─► Forwarder.State ─► programmer.Program ─► Reports ─► statuses   (files)
//	              (not for slices)                     (only the difference)    │    └► NodeReport (cluster)
//	                                                                            └► speaker: internal/announce
//
// Stopping the agent, whatever the way, changes nothing in the kernel. Nothing is
// programmed before all objects were read once.
//
// Once a second the agent looks, at next to no cost, whether others disturbed its rules or
// dropped its flows, and makes good what they did: what was flushed is in place again within
// two seconds, provided that to program all takes less than one (1000 listeners with iptables,
// thousands with nftables).
//
// Invariants, each with the test that fails when it breaks:
//
//   - Rules that others flushed are programmed within a second and the time that takes
//     (TestDisturbedRulesAreProgrammedWithinASecond), whoever did it and with every backend
//     (TestAgentMendsItsRules in integration/netns); looks that find nothing take a tenth
//     of a core at most (TestLookoutRests).
//   - A change of EndpointSlices alone decides nothing anew
//     (TestPassSliceChangeDoesNotBuild). Where one change of Gateways follows another in a
//     cluster, decisions take a quarter of the time and rest for a second at most, but not while a
//     Gateway fails; endpoints, and what files say, wait for nothing (TestDecisionsLeaveTime,
//     TestFilesAreOfOnePiece). What was proven is told from the pass before for
//     as long as it holds (TestProofHolds).
//   - A failure to program leaves the old rules, is told in the status and tried
//     again (TestPassReportsProgramErrors).
//   - An API server that is away stops nothing, and an agent that starts meanwhile
//     leaves the rules it finds (TestClusterServesWhileTheAPIIsAway,
//     TestClusterStartsWithoutTheAPI).
//   - A connection that swallows requests is given up when a renewal has no answer
//     (TestHeartbeatLeavesADeadConnection).
//   - The addresses served follow the host's and the Node's at once
//     (TestClusterFollowsTheNodesAddresses).
//   - The NodeReport is written when it changes and at no other time; endpoints never
//     change it (TestReportIsWrittenWhenItChanges, TestClusterFromAPIToKernelAndReport).
//   - A NodeReport of 5000 Gateways is smaller than 128 KiB (TestNodeReportIsSmall).
//   - A Gateway that cannot be programmed does not keep the agent from being ready
//     (TestReadyDespiteOneGateway).
//   - What preflight finds is looked at again with every full pass
//     (TestClusterFindingsFollowTheHost).
//   - Preflight changes nothing unless it was asked to (TestPreflight).
//   - An address is announced once it was committed, and no outage of the API server changes
//     anything about it (TestSpeakerIsToldWhatIsCommitted, TestPlan, TestSegment). It is no more
//     once its rules are gone (TestSpeakerStopsWithoutRules).
//   - Announcing that fails is told and tried again, and keeps nothing else from being done
//     (TestSpeakerFailsAndComesBack); without a list of Nodes, nothing is announced
//     (TestSpeakerNeedsToKnowNodes). Where it is wanted and not switched on, that is told
//     (TestSpeakerIsOff).
//   - Nobody is refused when an agent stops or its node is cordoned: others answer first
//     (TestSegmentHandsOver).
//   - An agent that announces is ready once it takes part (TestReadyOnceItTakesPart). Its loop
//     waits for no answer of what announces (TestNothingWaitsForAnAnnouncer).
//   - An agent knows no kinds but those it reads: every other costs memory on every node
//     (TestKnowsFewKinds in cmd/portway-agent).
//
// In a cluster, an agent needs these rights and no others, all of them without
// resourceNames, since those would have to name every node:
//
//	cluster   gateway.networking.k8s.io  gatewayclasses gateways listenersets
//	                                     tcproutes udproutes referencegrants  list watch
//	cluster   (core)                     namespaces services                  list watch
//	cluster   discovery.k8s.io           endpointslices                       list watch
//	cluster   (core)                     nodes                                get watch
//	                                     and to announce addresses            list
//	cluster   portway.dev                addresspools gatewayparameters       list watch
//	cluster   portway.dev                nodereports                          get create update delete
//	namespace coordination.k8s.io        leases                               get create update delete
//
// Discovery (/apis/GROUP/VERSION) is everybody's by system:discovery.
package agent
