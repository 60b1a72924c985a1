package agent

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
)

// relay passes connections on to a server, until they are to be swallowed.
type relay struct {
	net.Listener
	server string

	mu    sync.Mutex // guards conns
	conns []*swallowing
}

// swallowing is a connection that may lose everything without a word.
type swallowing struct {
	net.Conn
	dead chan struct{}
}

func (s *swallowing) Write(p []byte) (int, error) {
	select {
	case <-s.dead:
		return len(p), nil
	default:
		return s.Conn.Write(p)
	}
}

func (r *relay) serve() {
	for {
		client, err := r.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.server)
		if err != nil {
			_ = client.Close()
			return
		}
		dead := make(chan struct{})
		r.mu.Lock()
		r.conns = append(r.conns, &swallowing{client, dead})
		r.mu.Unlock()
		go func() { _, _ = io.Copy(&swallowing{server, dead}, client) }()
		go func() { _, _ = io.Copy(&swallowing{client, dead}, server) }()
	}
}

// swallow makes the connections that there are lose everything; new ones work.
func (r *relay) swallow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		close(c.dead)
	}
	defer func() { r.conns = nil }()
	return len(r.conns)
}

// apiServer is a TLS server behind a relay, and a kubeconfig file for it.
func apiServer(t *testing.T, handler http.HandlerFunc) (kubeconfig string, r *relay) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &relay{Listener: listener, server: server.Listener.Addr().String()}
	go r.serve()
	t.Cleanup(func() { _ = listener.Close() })
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{
		Server:                   "https://" + listener.Addr().String(),
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
	file.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	file.CurrentContext = "c"
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, r
}

// TestHeartbeatLeavesADeadConnection: without it the Lease is renewed only after the
// connection's own 30 s and 15 s, which is more than the controller waits.
func TestHeartbeatLeavesADeadConnection(t *testing.T) {
	agents := make(chan string, 1000)
	kubeconfig, relay := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		agents <- r.UserAgent() + " " + r.Proto
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(&coordinationv1.Lease{
			TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "agent-n1", ResourceVersion: "1"},
		})
	})
	_, ctx := ktesting.NewTestContext(t)
	api, err := connect(kubeconfig, "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	h := &heartbeat{
		client: api.Leases("x"), node: "n1", interval: time.Second, clock: clock.RealClock{}, reset: api.reset,
		owner: func(context.Context) (metav1.OwnerReference, error) { return metav1.OwnerReference{}, nil },
	}
	if err := h.pass(ctx, true); err != nil {
		t.Fatal(err)
	}
	if got := <-agents; !strings.HasPrefix(got, "portway-agent/v1.2.3 HTTP/2") {
		t.Errorf("request by %s", got)
	}
	if n := relay.swallow(); n != 1 {
		t.Fatalf("%d connections", n)
	}
	for range maxMisses {
		if err := h.pass(ctx, true); err == nil {
			t.Fatal("renewed over a dead connection")
		}
	}
	began := time.Now()
	if err := h.pass(ctx, true); err != nil {
		t.Errorf("%s after the timeout: %v", time.Since(began), err)
	}
	if n := relay.swallow(); n != 1 {
		t.Errorf("%d new connections, want one", n)
	}
}
