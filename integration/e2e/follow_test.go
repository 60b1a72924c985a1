package e2e

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// seen is a version of an object and when a watch brought it.
type seen[T runtime.Object] struct {
	object T
	at     time.Time
}

// follow stamps what a watch brings. Nobody has to read on; the watch ends with the
// test.
func follow[T runtime.Object](t *testing.T, w watch.Interface, err error) <-chan seen[T] {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	all := make(chan seen[T], 10000)
	go func() {
		defer close(all)
		for e := range w.ResultChan() {
			if o, ok := e.Object.(T); ok {
				all <- seen[T]{o, time.Now()}
			}
		}
	}()
	return all
}

// followGateway starts with the Gateway as it is.
func (s *space) followGateway(t *testing.T, name string) <-chan seen[*gatewayv1.Gateway] {
	t.Helper()
	w, err := s.Gateway.GatewayV1().Gateways(s.name).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	return follow[*gatewayv1.Gateway](t, w, err)
}

// until reads until f returns nil and returns when that was.
func until[T runtime.Object](t *testing.T, all <-chan seen[T], limit time.Duration, f func(T) error) time.Time {
	t.Helper()
	late := time.After(limit)
	err := fmt.Errorf("nothing was seen")
	for {
		select {
		case one, ok := <-all:
			if !ok {
				t.Fatalf("the watch ended; so far: %v", err)
			}
			if err = f(one.object); err == nil {
				return one.at
			}
		case <-late:
			t.Fatalf("after %s: %v", limit, err)
		}
	}
}

// stayedProgrammed fails the test if the Gateway was anything else so far.
func stayedProgrammed(t *testing.T, all <-chan seen[*gatewayv1.Gateway]) {
	t.Helper()
	for {
		select {
		case one, ok := <-all:
			if !ok {
				t.Fatal("the watch ended")
			}
			if !meta.IsStatusConditionTrue(one.object.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed)) {
				t.Errorf("at %s it was not programmed: %+v", one.at.Format("15:04:05.000"), one.object.Status.Conditions)
			}
		default:
			return
		}
	}
}
