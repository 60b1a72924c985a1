package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

func TestMain(m *testing.M) { netns.Main(m) }

const (
	podPort  = 6000
	ourPort  = 8080
	testMark = 0x1000
)

// fixture is a node that serves a local and a far pod by our rules.
type fixture struct {
	*netns.Lab
	t        *testing.T
	firewall *Firewall
	traffic  Traffic
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, Lab: netns.LabForTest(t,
		netns.PodSpec{Name: "near", Number: 10}, netns.PodSpec{Name: "far", Number: 20, Far: true})}
	if err := f.Serve(podPort); err != nil {
		t.Fatal(err)
	}
	f.traffic = Traffic{Addresses: []netip.Addr{netns.NodeAddr4, netns.NodeAddr6}, State: f.state()}
	config := nftables.DefaultConfig()
	config.NetNS = f.Node.Handle()
	p, err := nftables.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Program(t.Context(), f.traffic.State); err != nil {
		t.Fatal(err)
	}
	f.do(func() error {
		f.firewall, err = New(Config{Table: config.Table, Mark: config.Mark})
		return err
	})
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := f.firewall.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// state serves near on ourPort and far on the next one, over both families.
func (f *fixture) state() *rules.State {
	frontends := map[rules.FrontendKey]*rules.Frontend{}
	for i, pod := range f.Pods {
		for _, addrs := range [][2]netip.Addr{{netns.NodeAddr4, pod.Addr4}, {netns.NodeAddr6, pod.Addr6}} {
			for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
				frontend := &rules.Frontend{
					Owner: rules.Owner{Gateway: "default/gateway", Listener: "listener", Route: "default/route"},
					Backends: []rules.Backend{{Ref: "default/service", Weight: 1, Endpoints: []rules.Endpoint{
						{Addr: netip.AddrPortFrom(addrs[1], podPort), Name: pod.Name(), Local: !pod.Far},
					}}},
				}
				if protocol == rules.UDP {
					frontend.Select = rules.FlowHash
				}
				frontends[rules.FrontendKey{Addr: addrs[0], Protocol: protocol, Port: ourPort + uint16(i)}] = frontend
			}
		}
	}
	return rules.NewState(frontends, map[string]string{"default/gateway": "d"})
}

// do runs something on the node.
func (f *fixture) do(work func() error) {
	f.t.Helper()
	if err := f.Node.Do(work); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) ensure() Result {
	f.t.Helper()
	var result Result
	f.do(func() (err error) {
		result, err = f.firewall.Ensure(f.t.Context(), f.traffic)
		return err
	})
	return result
}

// run runs a command on the node.
func (f *fixture) run(line string) string {
	f.t.Helper()
	words := strings.Fields(line)
	out, err := f.Node.Output(words[0], words[1:]...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// shell runs a script on the node.
func (f *fixture) shell(script string) string {
	f.t.Helper()
	out, err := f.Node.Output("sh", "-ec", script)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// passes reports which of our flows are answered, and fails unless all or none are.
func (f *fixture) passes(addrs ...netip.Addr) bool {
	f.t.Helper()
	answered, asked := 0, 0
	for _, addr := range addrs {
		for i := range f.Pods {
			to := netip.AddrPortFrom(addr, ourPort+uint16(i))
			for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
				asked++
				if _, err := f.Client.Ask(protocol, to, askTimeout); err == nil {
					answered++
				}
			}
		}
	}
	if answered != 0 && answered != asked {
		f.t.Fatalf("%d of %d flows were answered", answered, asked)
	}
	return answered > 0
}

// foreign reports whether a flow that is not ours passes: straight to the near pod.
func (f *fixture) foreign() bool {
	f.t.Helper()
	_, err := f.Client.Ask(rules.TCP, netip.AddrPortFrom(f.Pod("near").Addr4, podPort), askTimeout)
	return err == nil
}

// save is what all tools show of the node, without the counters.
func (f *fixture) save(tools ...string) string {
	f.t.Helper()
	var out strings.Builder
	for _, tool := range tools {
		for line := range strings.Lines(f.run(tool)) {
			if !strings.HasPrefix(line, "#") {
				out.WriteString(line)
			}
		}
	}
	return out.String()
}
