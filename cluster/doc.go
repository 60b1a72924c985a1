// Package cluster is the one adapter between the Kubernetes API and the core:
// it turns API objects, read from an API server or from YAML files, into Snapshots
// and EndpointSlices, and for files statuses back into the documents the API would
// carry.
//
//	API server ──Live──► Store ──Next──► Update{Snapshot, Slices, Fleet} ──► topology
//	files ──Manifests──► Store
//	topology.Statuses ──StatusWriter──► apiVersion/kind/metadata/status documents
//
// It decides nothing about traffic; it refuses what an API server would refuse.
// Two things it does decide for files, because no API server is there to do so:
// which addresses a Gateway has (Assign), of those that topology.Resolve lets it have,
// and that all documents without a creationTimestamp are equally old. In a cluster the
// controller assigns addresses and everyone else reads them (Assigned).
//
// Live watches what liveKinds lists and nothing else, never Secrets. Objects from
// it are trimmed: they are for reading, and whoever writes anything but a status
// fetches the object first.
//
// Invariants, each with the test that fails when it breaks:
//
//   - What was handed out is never mutated (TestStoreSnapshotsAreImmutable).
//   - A change of EndpointSlices alone yields no Snapshot
//     (TestStoreSliceChangeYieldsNoSnapshot).
//   - A broken file keeps its last good content as a whole; other files go on
//     (TestManifestsBrokenEditKeepsLastGood). So does a directory that vanished
//     (TestManifestsDirectoryGone); a file that was removed takes its objects along
//     (TestManifestsRemovedFile).
//   - Nothing is read that could make us wait: regular files only
//     (TestManifestsIrregular).
//   - Every problem names file, line, object and field, and says what to do
//     (TestBadInput).
//   - Nothing enters the Store before every kind was read, and then everything as
//     one change (TestLiveSignalsNothingBeforeAllIsRead).
//   - A kind that is missing, comes, goes or changes its version is told once and
//     harms no other (TestLiveSurvivesThatNothingIsServed,
//     TestLiveSwitchesVersionsWithoutAGap).
//   - An API server that is away changes nothing
//     (TestLiveKeepsObjectsWhileTheAPIIsAway).
//   - Without the CRDs of our own kinds, everything that needs none of them goes on
//     (TestLiveGoesOnWithoutOurCRDs).
//   - Files may hold of our own kinds what the API server takes
//     (TestOwnKindsAsTheAPI).
//   - A list is one change, and what is as it was is not held twice
//     (TestFeedTakesAListAsOneChange). Of EndpointSlices only what the decision goes by
//     is held at all (TestTrimEndpointSlice), Services that are alike are one
//     (TestAlikeServicesAreOne), and nothing that a decision depends on is missing
//     (TestTrimChangesNoDecision).
//   - No kind is asked for that a program does not need (TestLiveReadsNothingElse).
//   - Our clients send and understand what client-go's clientsets do
//     (TestClientsAreAsClientsets, TestDiscovery).
//   - Our decoder accepts and yields what the API machinery's strict decoder
//     does (TestDecodeAgreesWithAPIMachinery, FuzzDocument).
package cluster
