package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	componentmetrics "k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// overdue is how long queued work, or a pass, may take before the agent is
// unhealthy. A pass that fails is progress all the same: restarting the agent
// would not help, and the failure is in the NodeReport and the metrics.
const overdue = time.Minute

// progress knows whether the loop does its work. Safe for concurrent use.
type progress struct {
	clock clock.PassiveClock

	mu        sync.Mutex // guards everything below
	queued    time.Time  // the oldest work no pass has begun with; zero: none
	began     time.Time  // the pass that runs; zero: none
	succeeded bool       // something was programmed
}

func newProgress(c clock.PassiveClock) *progress { return &progress{clock: c} }

// queue notes that there is work.
func (p *progress) queue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued.IsZero() {
		p.queued = p.clock.Now()
	}
}

// begin and end enclose a pass.
func (p *progress) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began, p.queued = p.clock.Now(), time.Time{}
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = time.Time{}
}

// succeed notes that the kernel took a State, but for Gateways that it refuses.
func (p *progress) succeed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.succeeded = true
}

// healthy returns what is overdue, nil for nothing.
func (p *progress) healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for what, since := range map[string]time.Time{"a pass has run": p.began, "a change has waited": p.queued} {
		if took := p.clock.Since(since); !since.IsZero() && took > overdue {
			return fmt.Errorf("%s for %s", what, took.Round(time.Second))
		}
	}
	return nil
}

// ready returns why this node cannot be relied on yet.
func (p *progress) ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.succeeded {
		return errors.New("nothing has been programmed since the start")
	}
	return nil
}

// relay passes signals on and notes each as work that is queued, until ctx ends.
func (p *progress) relay(ctx context.Context, from <-chan struct{}, to chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-from:
			p.queue()
			select {
			case to <- struct{}{}:
			default:
			}
		}
	}
}

// healthHandler answers what probes and a monitoring system ask; ready says what else this
// node has to wait for.
func healthHandler(p *progress, m *instruments, ready ...func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", answer(p.healthy))
	mux.HandleFunc("GET /readyz", answer(func() error {
		err := p.ready()
		for _, check := range ready {
			err = errors.Join(err, check())
		}
		return err
	}))
	mux.Handle("GET /metrics", componentmetrics.HandlerFor(m.registry, componentmetrics.HandlerOpts{}))
	return mux
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	}
}

// serveHealth answers on a listener until ctx ends.
func serveHealth(ctx context.Context, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "The health endpoint has ended", "address", listener.Addr().String())
	}
}

// listenHealth opens the health endpoint; nil when it is turned off.
func (o *Options) listenHealth() (net.Listener, error) {
	address := o.healthAddress()
	if address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("open the health endpoint: %w; choose another --health-bind-address", err)
	}
	return listener, nil
}
