package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

func addressPool(name string, addresses ...v1alpha1.AddressRange) *v1alpha1.AddressPool {
	return &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Spec: v1alpha1.AddressPoolSpec{Addresses: addresses}}
}

// TestLiveGoesOnWithoutOurCRDs: whoever does not use pools need not install them, and is
// told which are missing.
func TestLiveGoesOnWithoutOurCRDs(t *testing.T) {
	for name, role := range map[string]Role{"agent": ForAgent, "controller": ForController} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, role, func(api *fakeAPI) { api.serve(ownGroup, "nodereports") }, func(b *liveBench) {
				b.api.createRoute(t, "r")
				after(absence + 3*time.Second)
				if !b.isSynced() {
					t.Fatal("waits for pools")
				}
				b.wantRoutes(map[string]int{"r": 1})
				for _, crd := range []string{"addresspools.portway.dev", "gatewayparameters.portway.dev"} {
					if b.logged(`crd="`+crd+`"`) != 1 {
						t.Errorf("not told of %s:\n%s", crd, b.logs)
					}
				}
				b.must(b.api.own.pools.Create(t.Context(), addressPool("public"), metav1.CreateOptions{}))
				parameters := &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}
				b.must(b.api.own.parameters("default").Create(t.Context(), parameters, metav1.CreateOptions{}))
				b.api.serve(ownGroup, "addresspools", "gatewayparameters", "nodereports")
				after(time.Minute)
				s := b.store.Next().Snapshot
				if s == nil || s.AddressPools["public"] == nil || s.GatewayParameters[key("edge")] == nil {
					t.Errorf("snapshot %+v", s)
				}
			})
		})
	}
}

// TestLivePools: of a pool's status an agent sees what Gateways keep and nothing else, so
// that counts of what is in use are no news to it.
func TestLivePools(t *testing.T) {
	full := func() *v1alpha1.AddressPool {
		pool := addressPool("public", "192.0.2.0/24")
		pool.Status = v1alpha1.AddressPoolStatus{
			Conditions: []metav1.Condition{{Type: "Accepted"}}, Addresses: []string{"192.0.2.0/24"}, Retained: []string{"198.51.100.1"}, Assigned: 1, Available: "255",
		}
		return pool
	}
	for name, role := range map[string]Role{"agent": ForAgent, "controller": ForController} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, role, nil, func(b *liveBench) {
				b.must(b.api.own.pools.Create(t.Context(), full(), metav1.CreateOptions{}))
				after(time.Second)
				want := full()
				if role == ForAgent {
					want.Status = v1alpha1.AddressPoolStatus{Addresses: want.Status.Addresses, Retained: want.Status.Retained}
				}
				if diff := cmp.Diff(want, b.store.Next().Snapshot.AddressPools["public"]); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				counted := full()
				counted.Status.Assigned = 2
				b.must(b.api.own.pools.Update(t.Context(), counted, metav1.UpdateOptions{}))
				synctest.Wait()
				u := b.store.Next()
				switch {
				case role == ForAgent && u.Snapshot != nil:
					t.Error("a count is news to an agent")
				case role == ForController && (u.Snapshot == nil || !u.StatusOnly):
					t.Errorf("a count: %+v", u)
				}
				counted.Status.Retained = nil
				b.must(b.api.own.pools.Update(t.Context(), counted, metav1.UpdateOptions{}))
				synctest.Wait()
				if u := b.store.Next(); u.Snapshot == nil || u.StatusOnly {
					t.Errorf("what is retained decides: %+v", u)
				}
			})
		})
	}
}
