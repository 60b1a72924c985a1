package topology

import (
	"cmp"
	"math"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// age is what precedence among objects of a kind depends on.
type age struct {
	created int64 // seconds, the precision of creationTimestamp
	name    types.NamespacedName
}

// newAge: an object without a timestamp is not in the API yet, so it comes after
// all that are; two without are equally old.
func newAge(created metav1.Time, name types.NamespacedName) age {
	if created.IsZero() {
		return age{math.MaxInt64, name}
	}
	return age{created.Unix(), name}
}

func (g *Gateway) age() age     { return newAge(g.Source.CreationTimestamp, g.Key) }
func (s *ListenerSet) age() age { return newAge(s.Source.CreationTimestamp, s.Key) }
func (r *Route) age() age       { return newAge(r.Object.Meta.CreationTimestamp, r.Key.NamespacedName) }

// compareAge orders objects as Gateway API resolves conflicts ("Conflicts" in
// its API design guide): oldest creationTimestamp first, then alphabetically by
// "{namespace}/{name}".
func compareAge(a, b age) int {
	if a.created != b.created {
		return cmp.Compare(a.created, b.created)
	}
	if a.name.Namespace == b.name.Namespace {
		return cmp.Compare(a.name.Name, b.name.Name)
	}
	// The order of the joined strings, without joining them: the slash matters,
	// "a-b/x" sorts before "a/y".
	return cmp.Compare(a.name.Namespace+"/", b.name.Namespace+"/")
}
