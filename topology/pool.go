package topology

import (
	"cmp"
	"net/netip"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/addresses"
)

// Pool is an AddressPool. Immutable.
type Pool struct {
	Source *v1alpha1.AddressPool
	Name   string
	// Accepted: the spec is valid and overlaps no older pool.
	Accepted bool
	// Deleting: nothing is given out any more, and what Gateways have they keep.
	Deleting bool
	// Recorded: status.addresses is what spec.addresses says. Whoever gives out an
	// address before that risks that a spec which shrinks leaves no trace of it.
	Recorded bool
	// Set is what spec.addresses says, without what it avoids; empty while the pool is
	// not accepted.
	Set addresses.Set
	// Held is what Gateways keep that have it: Set, what spec.addresses was when it was
	// last accepted, and status.retained.
	Held       addresses.Set
	Announced  Announced
	Conditions []Condition

	occupied   addresses.Set // not for younger pools
	autoAssign bool
	namespaces namespacePolicy
	fault      fault
}

// Announced is who announces the addresses of a pool, those that are only retained
// included. It holds for a pool that is not accepted as well, without what is invalid
// of it.
type Announced struct {
	Layer2     bool
	Interfaces []string        // names and patterns as of path.Match; none: all
	Nodes      labels.Selector // nil: all nodes
}

// Gives reports whether addresses of the pool are given out.
func (p *Pool) Gives() bool { return p.Accepted && !p.Deleting }

func (p *Pool) age() age {
	return newAge(p.Source.CreationTimestamp, types.NamespacedName{Name: p.Name})
}

// poolsOf judges the pools, the oldest first: of two that overlap the younger is not
// accepted. What an older one occupies it has whether it is accepted at present or
// not: mending its spec must not find the addresses given to others.
func poolsOf(sources map[string]*v1alpha1.AddressPool) map[string]*Pool {
	all := make([]*Pool, 0, len(sources))
	for name, source := range sources {
		all = append(all, &Pool{Source: source, Name: name, Deleting: source.DeletionTimestamp != nil})
	}
	slices.SortFunc(all, func(a, b *Pool) int { return compareAge(a.age(), b.age()) })

	pools := make(map[string]*Pool, len(all))
	for i, pool := range all {
		set := pool.read()
		for _, older := range all[:i] {
			if first, last, found := older.occupied.Overlap(set); found && !pool.fault.exists() {
				pool.fault = poolOverlaps(older, addresses.Format(first, last))
			}
		}
		pool.settle(set)
		pools[pool.Name] = pool
	}
	return pools
}

// read judges a pool by itself and returns what its spec says.
func (p *Pool) read() addresses.Set {
	spec := &p.Source.Spec
	p.autoAssign = ptr.Deref(spec.AutoAssign, true)
	set, err := addresses.Parse(texts(spec.Addresses))
	switch {
	case err != nil:
		p.fault = poolAddressInvalid(err)
	case len(spec.Addresses) == 0:
		p.fault = poolEmpty()
	}
	namespaces := ptr.Deref(spec.Namespaces, v1alpha1.PoolNamespaces{})
	switch from := cmp.Or(namespaces.From, v1alpha1.NamespacesFromAll); from {
	case v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSelector:
		if p.namespaces, err = newNamespacePolicy(gatewayv1.FromNamespaces(from), namespaces.Selector, ""); err != nil {
			p.invalid(badSelector("spec.namespaces", err))
		}
	default:
		p.invalid(unknownValue("spec.namespaces.from", from, "All, Selector"))
	}
	if announcement := spec.Announcement; announcement != nil {
		p.readAnnouncement(announcement)
	}
	return set
}

func (p *Pool) readAnnouncement(a *v1alpha1.Announcement) {
	switch a.Mode {
	case "", v1alpha1.AnnouncementNone:
		return
	case v1alpha1.AnnouncementLayer2:
		p.Announced.Layer2 = true
	default:
		p.invalid(unknownValue("spec.announcement.mode", a.Mode, "None, Layer2"))
		return
	}
	for i, pattern := range a.Interfaces {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			p.invalid(badPattern(indexed("spec.announcement.interfaces", i), pattern))
			continue
		}
		p.Announced.Interfaces = append(p.Announced.Interfaces, pattern)
	}
	if a.NodeSelector != nil {
		nodes, err := metav1.LabelSelectorAsSelector(a.NodeSelector)
		if err != nil {
			p.invalid(badSelector("spec.announcement.nodeSelector", err))
			return
		}
		p.Announced.Nodes = nodes
	}
}

// invalid notes what is wrong with a field, unless something was before.
func (p *Pool) invalid(wrong problem) {
	if !p.fault.exists() {
		p.fault = poolFieldInvalid(wrong)
	}
}

// settle concludes from what is wrong what the pool has.
func (p *Pool) settle(spec addresses.Set) {
	status := &p.Source.Status
	p.Accepted = !p.fault.exists()
	p.Recorded = p.Accepted && slices.Equal(status.Addresses, texts(p.Source.Spec.Addresses))
	before := slices.Concat(status.Addresses, status.Retained)
	if p.Accepted {
		p.Set, p.occupied = spec, spec
		if p.Source.Spec.AvoidBuggyIPs {
			p.Set = spec.AvoidBuggy()
		}
		before = append(before, texts(p.Source.Spec.Addresses)...)
	} else {
		p.occupied, _ = addresses.Parse(status.Addresses) // what is wrong there was never given out
	}
	p.Held, _ = addresses.Parse(before)
	p.Conditions = []Condition{p.acceptedCondition()}
}

// admits reports whether Gateways of a namespace may have addresses of the pool.
func (p *Pool) admits(namespace string, known map[string]*corev1.Namespace) bool {
	return p.namespaces.allows(namespace, known)
}

// has reports whether the pool has addresses of a family.
func (p *Pool) has(family corev1.IPFamily) bool {
	if family == corev1.IPv6Protocol {
		return p.Set.HasIPv6()
	}
	return p.Set.HasIPv4()
}

func texts(entries []v1alpha1.AddressRange) []string {
	all := make([]string, len(entries))
	for i, entry := range entries {
		all[i] = string(entry)
	}
	return all
}

// FamilyOf returns the family of an address; an IPv4-mapped one is IPv4.
func FamilyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
