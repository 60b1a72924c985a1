// Package members keeps the nodes of a cluster in touch with each other, peer to peer, so
// that no outage of an API server changes who owns what. It carries owner.Records and
// tells who is alive; hashicorp/memberlist does both (SWIM with the Lifeguard extensions).
//
//	Publish ──► gossip (UDP, up to 1.3 KB) ──► told on by who hears it first ─┐
//	       └──► to each member (TCP, longer ones) ────────────────────────────┼──► Records
//	            all records, two members every 15 s, and whoever joins ───────┘
//
// Everything is encrypted and authenticated with a key that only members have
// (AES-256-GCM). The file it is in is followed, see useAfter: replacing the only key of a
// Secret separates nobody.
//
// What this package does not do: it decides nothing, and does not know who should be a
// member; its caller does. It does not tell a member that is slow from one that is gone,
// beyond the times in config.go.
//
// # Invariants
//
//   - A record reaches everybody, whatever its length, and whoever joins later; who leaves
//     or is gone is noticed (TestMembers).
//   - A record of an earlier life is replaced, even if the clock went back, and what
//     somebody said before he was away is not trusted until he says it again, but for his
//     MACs (TestMembers, TestAwayWithoutKnowing).
//   - Who is lost, and his MACs, are known for an hour after he was last alive or Noticed
//     (TestForgets).
//   - Who has another key is no member (TestOtherKey), and while a key is replaced everybody
//     understands everybody (TestRotation, TestKeyFileIsFollowed).
//   - What is wrong with the configuration is named, with the cure (TestNewRefuses,
//     TestReadKeys).
package members
