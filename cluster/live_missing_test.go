package cluster

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// createRoute makes a TCPRoute before or after the Live begins.
func (api *fakeAPI) createRoute(t *testing.T, name string) {
	t.Helper()
	if _, err := api.gateway.GatewayV1().TCPRoutes("default").Create(t.Context(), tcpRoute(name, 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// missOnce lets one look find nothing of the Gateway API.
func (b *liveBench) missOnce() {
	b.t.Helper()
	all := slices.Clone(b.api.served[v1Group])
	b.api.serve(v1Group)
	b.Rediscover()
	synctest.Wait()
	b.api.serve(v1Group, all...)
}

// TestLiveDoesNotStartFromOneLook: behind the address of the API may be a server that
// does not know the CRDs yet. An agent that started from its answer would remove
// all rules of the one before it.
func TestLiveDoesNotStartFromOneLook(t *testing.T) {
	tests := map[string][]string{
		"no kind":  nil,
		"one kind": {"gatewayclasses", "gateways", "listenersets", "udproutes", "referencegrants"},
	}
	for name, known := range tests {
		t.Run(name, func(t *testing.T) {
			var all []string
			prepare := func(api *fakeAPI) {
				all = slices.Clone(api.served[v1Group])
				api.createRoute(t, "r")
				api.serve(v1Group, known...)
			}
			inBubble(t, ForAgent, prepare, func(b *liveBench) {
				after(absence - 2*time.Second)
				if b.isSynced() || signalled(b.store) {
					t.Fatal("started without a kind that was not there for a moment")
				}
				b.api.serve(v1Group, all...)
				after(time.Second)
				if !b.isSynced() {
					t.Error("not started at once when every kind was there")
				}
				b.wantRoutes(map[string]int{"r": 1})
				if b.logged("does not serve") != 0 {
					t.Errorf("told:\n%s", b.logs)
				}
			})
		})
	}
}

// TestLiveKeepsReadingAKindMissedBeforeTheStart: the miss comes when the kind is
// about to be read, and what may not be read is not missing either.
func TestLiveKeepsReadingAKindMissedBeforeTheStart(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.createRoute(t, "r")
		api.failWith(func(verb, resource string) error {
			if verb == "list" && resource == "tcproutes" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
			}
			return nil
		})
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		b.missOnce()
		after(time.Minute)
		if b.isSynced() || b.logged("does not serve") != 0 {
			t.Fatalf("started without a kind that is served:\n%s", b.logs)
		}
		b.api.failWith(nil)
		after(time.Minute)
		b.wantRoutes(map[string]int{"r": 1})
	})
}

// TestLiveRemovesNothingAfterOneLook: one API server of several that does not know
// the CRDs yet must not stop all traffic, however often that happens.
func TestLiveRemovesNothingAfterOneLook(t *testing.T) {
	inBubble(t, ForAgent, nil, func(b *liveBench) {
		b.api.createRoute(t, "r")
		b.wantRoutes(map[string]int{"r": 1})
		for range 3 {
			b.missOnce()
			after(time.Second)
			looks := b.api.discovers
			after(time.Hour)
			if b.api.discovers != looks {
				t.Error("still looks although everything was found again")
			}
			if got := b.routes(); got != nil || b.logged("does not serve") != 0 {
				t.Fatalf("routes %v, log:\n%s", got, b.logs)
			}
		}
	})
}

// TestLiveRemovesWhatStaysMissing without another hint than the first.
func TestLiveRemovesWhatStaysMissing(t *testing.T) {
	inBubble(t, ForAgent, nil, func(b *liveBench) {
		b.api.createRoute(t, "r")
		b.wantRoutes(map[string]int{"r": 1})
		// Of a group that nobody serves, watches may well stay open.
		b.api.failWith(func(verb, resource string) error {
			if verb == "discover" {
				return apierrors.NewNotFound(schema.GroupResource{}, resource)
			}
			return nil
		})
		b.Rediscover()
		after(absence - time.Second)
		if got := b.routes(); got != nil {
			t.Errorf("removed before the time: %v", got)
		}
		after(2 * time.Second)
		b.wantRoutes(map[string]int{})
	})
}

// TestLiveCountsMissesInARowOnly: an API server that comes back after an outage may
// not know every kind yet, as before the outage.
func TestLiveCountsMissesInARowOnly(t *testing.T) {
	inBubble(t, ForAgent, nil, func(b *liveBench) {
		b.api.createRoute(t, "r")
		b.wantRoutes(map[string]int{"r": 1})
		all := slices.Clone(b.api.served[v1Group])
		b.api.serve(v1Group)
		b.Rediscover()
		synctest.Wait()
		b.api.failWith(func(string, string) error { return apierrors.NewServiceUnavailable("starting") })
		after(time.Minute)
		b.api.failWith(nil)
		b.Rediscover()
		synctest.Wait()
		b.api.serve(v1Group, all...)
		after(time.Minute)
		if got := b.routes(); got != nil || b.logged("does not serve") != 0 {
			t.Errorf("routes %v, log:\n%s", got, b.logs)
		}
	})
}

// TestLiveWaitsForTheAnswerOfEveryGroup: a kind that one version lacks may be served
// in the other one.
func TestLiveWaitsForTheAnswerOfEveryGroup(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.serve(v1Group, "gatewayclasses", "gateways", "listenersets", "udproutes", "referencegrants")
		api.failWith(func(_, resource string) error {
			if resource == oldGroup {
				return apierrors.NewServiceUnavailable("starting")
			}
			return nil
		})
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		after(time.Hour)
		if b.isSynced() {
			t.Fatal("started without an answer")
		}
		b.api.failWith(nil)
		after(DefaultLiveConfig().MaxPoll + absence)
		if !b.isSynced() || b.Served()["TCPRoute"] != "" {
			t.Errorf("synced %t, served %v", b.isSynced(), b.Served())
		}
	})
}

// TestLiveTellsThatABuiltinKindIsMissing: nobody else would say why it does not start.
func TestLiveTellsThatABuiltinKindIsMissing(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.failWith(func(_, resource string) error {
			if resource == "endpointslices" {
				return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, "")
			}
			return nil
		})
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		after(time.Hour)
		if b.isSynced() || b.logged("Cannot read objects") != 1 {
			t.Errorf("synced %t, log:\n%s", b.isSynced(), b.logs)
		}
		if b.api.discovers > 4 {
			t.Errorf("discovered %d times for a kind that is not looked for", b.api.discovers)
		}
	})
}
