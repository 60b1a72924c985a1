package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2/ktesting"
)

type oneNode struct {
	nodes
	node *corev1.Node
}

func (n oneNode) Get(context.Context, string, metav1.GetOptions) (*corev1.Node, error) {
	return n.node, nil
}

func TestSelfAddresses(t *testing.T) {
	tests := map[string]struct{ host, listed, want string }{
		"of the host and listed":   {"192.0.2.1 10.244.0.1 2001:db8::1", "i:192.0.2.1 i:2001:db8::1", "[192.0.2.1 2001:db8::1]"},
		"one family is listed":     {"192.0.2.1 2001:db8::1", "i:192.0.2.1", "[192.0.2.1]"},
		"external ones count":      {"192.0.2.1 198.51.100.7", "e:198.51.100.7 i:192.0.2.1 h:n1", "[192.0.2.1 198.51.100.7]"},
		"listed, not on this host": {"10.0.0.1", "e:198.51.100.7", "[10.0.0.1]"},
		"nothing listed":           {"192.0.2.1 10.244.0.1", "h:n1", "[192.0.2.1 10.244.0.1]"},
		"nothing on this host":     {"", "i:192.0.2.1", "[]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, ctx := ktesting.NewTestContext(t)
			var host []netip.Addr
			var node corev1.Node
			for _, text := range strings.Fields(test.host) {
				host = append(host, netip.MustParseAddr(text))
			}
			kinds := map[byte]corev1.NodeAddressType{'i': corev1.NodeInternalIP, 'e': corev1.NodeExternalIP, 'h': corev1.NodeHostName}
			for _, text := range strings.Fields(test.listed) {
				node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: kinds[text[0]], Address: text[2:]})
			}
			s := newSelf("n1", oneNode{node: &node}, func() ([]netip.Addr, error) { return host, nil })
			if _, err := s.read(ctx); err != nil {
				t.Fatal(err)
			}
			got, err := s.addresses(ctx)
			if err != nil || fmt.Sprint(got) != test.want {
				t.Errorf("addresses %v (%v), want %s", got, err, test.want)
			}
		})
	}
}
