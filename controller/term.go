package controller

import (
	"context"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// term is what a leader knows of the addresses that leaders before it gave. What it
// watches may be behind: a new leader that went by it alone could give an address that
// the one before gave a moment ago. Hence it first asks the API server for all
// Gateways, past every cache, and goes by that until what it watches is as new. Not safe
// for concurrent use.
type term struct {
	before map[types.NamespacedName]given
	taken  map[netip.Addr]bool // of those that are not known here yet
}

// given is what a Gateway had of pools when the term began.
type given struct {
	holding
	version string // of the Gateway
}

// beginTerm reads all Gateways with a quorum: without a resourceVersion the API server
// asks etcd (API concepts, "Resource versions").
func beginTerm(ctx context.Context, list func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error)) (*term, error) {
	t := &term{before: map[types.NamespacedName]given{}}
	options := metav1.ListOptions{Limit: 500}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list Gateways: %w", err)
		}
		for i := range page.Items {
			g := &page.Items[i]
			if addresses := topology.PublishedAddresses(g); len(addresses) > 0 && topology.RecordedMode(g) == v1alpha1.AddressModePool {
				t.before[keyOf(g)] = given{holding{g.UID, addresses}, g.ResourceVersion}
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return t, nil
		}
	}
}

// catchUp forgets what the Gateways as watched are newer than. Changes of one kind are
// seen in their order: once one is seen that came later, so is everything before it.
func (t *term) catchUp(gateways map[types.NamespacedName]*gatewayv1.Gateway) {
	if len(t.before) == 0 {
		return
	}
	newest := ""
	for _, g := range gateways {
		if newest == "" || notOlder(g.ResourceVersion, newest) {
			newest = g.ResourceVersion
		}
	}
	for key, before := range t.before {
		if newest != "" && notOlder(newest, before.version) {
			delete(t.before, key)
		}
	}
}

// notOlder: versions that cannot be compared are taken to be older, which keeps an
// address from being given for too long rather than too short.
func notOlder(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order >= 0
}

// held returns what a Gateway had of pools when the term began.
func (t *term) held(p *topology.Parameters) []netip.Addr {
	if before, ok := t.before[p.Key]; ok && before.uid == p.Gateway.UID {
		return before.addresses
	}
	return nil
}

// reserve keeps the addresses of Gateways that are not seen yet from being given.
func (t *term) reserve(r *topology.Resolution) {
	t.taken = nil
	for key, before := range t.before {
		if p := r.Gateways[key]; p != nil && p.Gateway.UID == before.uid {
			continue
		}
		for _, addr := range before.addresses {
			if t.taken == nil {
				t.taken = map[netip.Addr]bool{}
			}
			t.taken[addr] = true
		}
	}
}

// blocks reports whether an address is one of those. A nil term blocks nothing.
func (t *term) blocks(addr netip.Addr) bool { return t != nil && t.taken[addr] }
