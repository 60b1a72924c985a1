package nftables

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// Traffic on the loopback of one namespace, where all of 127.0.0.0/8 answers:
// connections from random addresses to 127.1.0.1, endpoints at 127.2.0.x.
const servers = 8

var frontKey = key("127.1.0.1 tcp 80")

func serverAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 2, 0, byte(i)}), 6000)
}

// serve starts the servers; each says its number and waits for the client to go.
func serve(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	for i := range servers {
		serveAt(t, ns, serverAddr(i), i)
	}
}

func serveAt(t *testing.T, ns *netns.Namespace, at netip.AddrPort, number int) {
	t.Helper()
	var listener net.Listener
	if err := ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.Write([]byte{byte(number)}) // a client that is gone counts itself
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
}

// connect opens one connection and returns the number of the server that took it.
func connect(from *rand.Rand) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	timeout := unix.Timeval{Sec: 3}
	linger := unix.Linger{Onoff: 1} // no TIME_WAIT, so that ports do not run out
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 3, byte(from.IntN(250)), byte(1 + from.IntN(250))}}),
	)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: frontKey.Addr.As4(), Port: int(frontKey.Port)}); err != nil {
		return 0, err
	}
	var answer [1]byte
	if n, err := unix.Read(fd, answer[:]); err != nil || n == 0 {
		return 0, errors.Join(err, io.ErrUnexpectedEOF)
	}
	return int(answer[0]), nil
}

// flipping is one Frontend whose endpoints, weights and slot count keep changing.
// The set of its servers is known for every epoch.
func flipping(r *rand.Rand) (*rules.Frontend, [servers]bool) {
	f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r")}
	var in [servers]bool
	for b := range 2 {
		one := rules.Backend{Ref: fmt.Sprintf("ns/svc-%d", b), Weight: uint32(1 + r.IntN(3))}
		for i := b * servers / 2; i < (b+1)*servers/2; i++ {
			if r.IntN(2) == 0 || (i%(servers/2) == 0 && len(one.Endpoints) == 0) {
				one.Endpoints = append(one.Endpoints, rules.Endpoint{Addr: serverAddr(i), Name: fmt.Sprint(i), Local: true})
				in[i] = true
			}
		}
		f.Backends = append(f.Backends, one)
	}
	return f, in
}

// epochs remembers which servers were wanted when.
type epochs struct {
	mu        sync.Mutex
	wanted    [][servers]bool
	committed int
}

func (e *epochs) now() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.committed
}

// allowed reports whether a server was wanted at any time since an epoch.
func (e *epochs) allowed(server, since int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, in := range e.wanted[since:] {
		if in[server] {
			return true
		}
	}
	return false
}

// testUnderTraffic changes the rules by step, again and again, and expects that no
// connection fails and that none goes to a server removed before it began.
func testUnderTraffic(t *testing.T, ns *netns.Namespace, duration time.Duration, e *epochs, step func()) {
	t.Helper()
	var connections, refused, stale atomic.Int64
	var other atomic.Value
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range 3 {
		running.Go(func() {
			_ = ns.Do(func() error {
				from := rand.New(rand.NewPCG(uint64(i), 1))
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					since := e.now()
					server, err := connect(from)
					if errors.Is(err, unix.EINTR) { // Go's own signals; tells nothing
						continue
					}
					connections.Add(1)
					switch {
					case errors.Is(err, unix.ECONNREFUSED):
						refused.Add(1)
					case err != nil:
						other.Store(err)
					case !e.allowed(server, since):
						stale.Add(1)
					}
				}
			})
		})
	}
	steps := 0
	for end := time.Now().Add(duration); time.Now().Before(end); steps++ {
		step()
		runtime.Gosched()
	}
	close(stop)
	running.Wait()
	t.Logf("%d connections during %d updates", connections.Load(), steps)
	if refused.Load()+stale.Load() > 0 || other.Load() != nil {
		t.Errorf("%d refused, %d to a server removed before, other errors: %v", refused.Load(), stale.Load(), other.Load())
	}
	if connections.Load() < 100 {
		t.Errorf("only %d connections", connections.Load())
	}
}

func TestUpdatesRefuseNothing(t *testing.T) {
	for _, small := range []bool{false, true} {
		t.Run(fmt.Sprintf("small=%t", small), func(t *testing.T) {
			ns, c := inNamespace(t)
			serve(t, ns)
			p := newProgrammer(t, c)
			if small { // slots, switch and sweep in batches of their own
				limit := elementsCost(128)
				p.limit = &limit
				if err := p.disconnect(); err != nil {
					t.Fatal(err)
				}
			}
			r := rand.New(rand.NewPCG(1, 2))
			e := &epochs{}
			update := func() {
				f, in := flipping(r)
				e.mu.Lock()
				e.wanted = append(e.wanted, in)
				e.mu.Unlock()
				mustProgram(t, p, stateOf(map[rules.FrontendKey]*rules.Frontend{frontKey: f}))
				e.mu.Lock()
				e.committed = len(e.wanted) - 1
				e.mu.Unlock()
			}
			update()
			testUnderTraffic(t, ns, 2*time.Second, e, update)
		})
	}
}

var listenerCounter = regexp.MustCompile(`127\.1\.0\.1 \. tcp \. 80 counter packets (\d+)`)

func TestRestartRefusesNothingAndKeepsCounters(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	f, in := flipping(rand.New(rand.NewPCG(3, 4)))
	s := benchState(200).Apply(map[rules.FrontendKey]*rules.Frontend{frontKey: f}, map[string]string{})
	mustProgram(t, newProgrammer(t, c), s)
	counter := func() int {
		listing := nft(t, ns, "list", "map", "inet", "portway", "listeners4")
		m := listenerCounter.FindStringSubmatch(listing)
		if m == nil {
			t.Fatalf("no counter of the listener in:\n%s", listing)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	last := 0
	testUnderTraffic(t, ns, 2*time.Second, &epochs{wanted: [][servers]bool{in}}, func() {
		// A rule too many has the chain that all packets go through replaced.
		nft(t, ns, "add", "rule", "inet", "portway", "services", "counter")
		if n := mustProgram(t, newProgrammer(t, c), s); n != 0 {
			t.Errorf("restart: %d operations", n)
		}
		now := counter()
		if now < last {
			t.Errorf("the listener's counter fell from %d to %d", last, now)
		}
		last = now
	})
	if last == 0 {
		t.Error("the listener's counter counts nothing")
	}
}

// share checks that k of n draws are plausible for a probability: within five
// standard deviations.
func share(t *testing.T, what string, k, n int, p float64) {
	t.Helper()
	deviation := math.Sqrt(float64(n) * p * (1 - p))
	if math.Abs(float64(k)-float64(n)*p) > 5*deviation {
		t.Errorf("%s: %d of %d, want a share of %.4f", what, k, n, p)
	}
}

func TestKernelDrawsTheShares(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{
		backend("ns/a", 5, local(serverAddr(0).String(), "")), backend("ns/b", 2, local(serverAddr(1).String(), "")), backend("ns/gone", 3),
	}}
	mustProgram(t, newProgrammer(t, c), stateOf(map[rules.FrontendKey]*rules.Frontend{frontKey: f}))
	const n = 2000
	refused := 0
	var got [servers]int
	if err := ns.Do(func() error {
		from := rand.New(rand.NewPCG(5, 6))
		for range n {
			server, err := connect(from)
			for errors.Is(err, unix.EINTR) { // Go's own signals; tells nothing
				server, err = connect(from)
			}
			switch {
			case errors.Is(err, unix.ECONNREFUSED):
				refused++
			case err != nil:
				return err
			default:
				got[server]++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	share(t, "first backend", got[0], n, 0.5)
	share(t, "second backend", got[1], n, 0.2)
	share(t, "refused", refused, n, 0.3)
}

// The refused share of UDP is drawn in the kernel from an interval set whose key
// must be in network order.
func TestKernelDrawsTheRefusedDatagrams(t *testing.T) {
	ns, c := inNamespace(t)
	k := key("127.1.0.1 udp 53")
	for round, weight := range []uint32{1, 3, 250} { // of 1 + weight + 250
		f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Select: rules.FlowHash, Backends: []rules.Backend{
			backend("ns/a", 250, local("127.2.0.1:53", ""), local("127.2.0.2:53", "")), backend("ns/gone", weight),
		}}
		mustProgram(t, newProgrammer(t, c), stateOf(map[rules.FrontendKey]*rules.Frontend{k: f}))
		const n = 3000
		var got [3]int
		if err := ns.Do(func() error { return datagrams(k, byte(3+round), n, got[1:]) }); err != nil {
			t.Fatal(err)
		}
		p := 250 / float64(250+weight)
		share(t, fmt.Sprintf("answered with a refused weight of %d", weight), got[1]+got[2], n, p)
		share(t, "first endpoint", got[1], got[1]+got[2], 0.5)
	}
}

// datagrams sends n, each of a flow of its own from 127.network.0.0/16, and counts them where they arrive.
func datagrams(to rules.FrontendKey, network byte, n int, got []int) error {
	var receivers []int
	for i := range got {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 2, 0, byte(i + 1)}, Port: 53}); err != nil {
			return err
		}
		receivers = append(receivers, fd)
	}
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = errors.Join(
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, network, byte(i / 250), byte(1 + i%250)}, Port: 20000 + i}),
			ignore(unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: to.Addr.As4(), Port: int(to.Port)}), unix.EPERM),
			unix.Close(fd),
		)
		if err != nil {
			return err
		}
		// Loopback delivers before sendto returns.
		for r, fd := range receivers {
			var b [8]byte
			if _, _, err := unix.Recvfrom(fd, b[:], 0); err == nil {
				got[r]++
			}
		}
	}
	return nil
}

// ignore drops an expected error: a datagram dropped in the output hook is EPERM.
func ignore(err error, expected unix.Errno) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
