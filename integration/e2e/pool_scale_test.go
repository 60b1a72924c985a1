package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// manyGateways: 1000 Gateways are made at once by several clients, some of them go again, and the
// controller that leads is killed twice. In all of what the API server tells, in its order,
// no two Gateways ever have the same address, and none has another one later.
func manyGateways(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		class   = "portway-many"
		count   = 1000
		makers  = 8
		every   = 10 // of which one goes as soon as it has an address
		limit   = 5 * time.Minute
		enough  = count / 10 // assigned before the leader is killed
		addrs   = "198.18.0.0/22"
		offered = 1024
	)
	s := c.space(t, "many-gateways")
	s.addressPool(t, "many", addrs)
	s.class(t, class, "{mode: Pool, pool: many}")
	book := newLedger(netip.MustParsePrefix(addrs))
	w, err := s.watchGateways(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { book.read(w) })
	t.Cleanup(func() { w.Stop(); reading.Wait() })

	started := time.Now()
	var making sync.WaitGroup
	for m := range makers {
		making.Go(func() {
			for i := m; i < count; i += makers {
				if err := s.makeGateway(t.Context(), fmt.Sprintf("gw-%04d", i), class); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for kill := range 2 {
		eventually(t, limit, func() error { return book.atLeast((kill + 1) * enough) })
		none := int64(0)
		if err := c.Kube.CoreV1().Pods(System).Delete(t.Context(), leader(t, c), metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
			t.Fatal(err)
		}
		if book.atLeast(count) == nil {
			t.Error("all had their addresses before the leader was killed: this run shows nothing")
		}
	}
	making.Wait()
	t.Logf("%d Gateways were made within %s", count, time.Since(started).Round(time.Second))
	for i := 0; i < count; i += every {
		name := fmt.Sprintf("gw-%04d", i)
		eventually(t, limit, func() error { return book.has(name) })
		if err := c.Gateway.GatewayV1().Gateways(s.name).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := s.makeGateway(t.Context(), "again-"+name, class); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, limit, func() error { return book.atLeast(count) })
	t.Logf("all of them had an address after %s", time.Since(started).Round(time.Second))
	for _, fault := range book.found() {
		t.Error(fault)
	}
	poolHas(t, c, "many", fmt.Sprintf("True Accepted %d [%s]", offered-count, addrs))
	s.programmed(t, "gw-0999")
	if err := c.Gateway.GatewayV1().Gateways(s.name).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit, func() error {
		out, err := s.Kubectl(t.Context(), "get", "addresspool", "many", "-o", "jsonpath={.status.available}")
		if err == nil && strings.TrimSpace(out) != fmt.Sprint(offered) {
			err = fmt.Errorf("%s of the pool are available", out)
		}
		return err
	})
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// watchGateways goes on where it was when the API server closes a watch, as it does with those that it
// finds too slow, or ends with an event that says why it cannot: no change is left out.
func (s *space) watchGateways(ctx context.Context) (watch.Interface, error) {
	gateways := s.Gateway.GatewayV1().Gateways(s.name)
	list, err := gateways.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return gateways.Watch(ctx, options)
		},
	})
}

// makeGateway makes one with a TCP listener.
func (s *space) makeGateway(ctx context.Context, name, class string) error {
	gw := &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: gatewayv1.GatewaySpec{
			GatewayClassName: gatewayv1.ObjectName(class),
			Listeners:        []gatewayv1.Listener{{Name: "tcp", Protocol: gatewayv1.TCPProtocolType, Port: 80}},
		},
	}
	_, err := s.Gateway.GatewayV1().Gateways(s.name).Create(ctx, gw, metav1.CreateOptions{})
	return err
}

// ledger is who has which address, as the API server tells it.
type ledger struct {
	offered netip.Prefix

	mu        sync.Mutex // guards everything below
	holders   map[netip.Addr]string
	addresses map[string]netip.Addr
	faults    []string
}

func newLedger(offered netip.Prefix) *ledger {
	return &ledger{offered: offered, holders: map[netip.Addr]string{}, addresses: map[string]netip.Addr{}}
}

func (b *ledger) read(w watch.Interface) {
	for event := range w.ResultChan() {
		if gw, ok := event.Object.(*gatewayv1.Gateway); ok {
			b.enter(event.Type, gw)
			continue
		}
		b.mu.Lock()
		b.fault("the watch ended: %v", event.Object)
		b.mu.Unlock()
	}
}

func (b *ledger) enter(kind watch.EventType, gw *gatewayv1.Gateway) {
	b.mu.Lock()
	defer b.mu.Unlock()
	had, known := b.addresses[gw.Name]
	switch {
	case kind == watch.Deleted:
		delete(b.holders, had)
		delete(b.addresses, gw.Name)
		return
	case len(gw.Status.Addresses) == 0:
		if known {
			b.fault("%s lost %s", gw.Name, had)
		}
		return
	case len(gw.Status.Addresses) > 1:
		b.fault("%s has %v", gw.Name, gw.Status.Addresses)
		return
	}
	addr, err := netip.ParseAddr(gw.Status.Addresses[0].Value)
	switch other := b.holders[addr]; {
	case err != nil || !b.offered.Contains(addr):
		b.fault("%s has %v, which is not of the pool", gw.Name, gw.Status.Addresses)
	case known && had != addr:
		b.fault("%s had %s and has %s", gw.Name, had, addr)
	case other != "" && other != gw.Name:
		b.fault("%s and %s have %s", gw.Name, other, addr)
	}
	b.holders[addr], b.addresses[gw.Name] = gw.Name, addr
}

func (b *ledger) fault(format string, args ...any) {
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

func (b *ledger) found() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults[:min(len(b.faults), 10)]
}

func (b *ledger) atLeast(count int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.addresses) < count {
		return fmt.Errorf("%d Gateways have an address, want %d", len(b.addresses), count)
	}
	return nil
}

func (b *ledger) has(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.addresses[name]; !ok {
		return fmt.Errorf("%s has no address", name)
	}
	return nil
}
