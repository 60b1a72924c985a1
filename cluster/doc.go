// Package cluster is the one adapter between the Kubernetes API and the core:
// it turns API objects, read from YAML files, into Snapshots and EndpointSlices,
// and statuses back into the documents the API would carry.
//
//	files ──Manifests──► Store ──Next──► Update{Snapshot, Slices} ──► topology
//	topology.Statuses ──StatusWriter──► apiVersion/kind/metadata/status documents
//
// It decides nothing about traffic; it refuses what an API server would refuse.
// Two things it does decide, because no API server is there to do so: which
// addresses a Gateway has (Assign), and that all documents without a
// creationTimestamp are equally old.
//
// Invariants, each with the test that fails when it breaks:
//
//   - What was handed out is never mutated (TestStoreSnapshotsAreImmutable).
//   - A change of EndpointSlices alone yields no Snapshot
//     (TestStoreSliceChangeYieldsNoSnapshot).
//   - A broken file keeps its last good content as a whole; other files go on
//     (TestManifestsBrokenEditKeepsLastGood).
//   - Every problem names file, line, object and field, and says what to do
//     (TestBadInput).
//   - Our decoder accepts and yields what the API machinery's strict decoder
//     does (TestDecodeAgreesWithAPIMachinery, FuzzDocument).
package cluster
