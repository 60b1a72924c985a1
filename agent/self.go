package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// nodes reads Nodes.
type nodes interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.Node, error)
	nodeWatch
}

// nodeWatch follows Nodes.
type nodeWatch interface {
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// self is the Node object of this agent. Safe for concurrent use.
type self struct {
	name   string
	client nodes
	host   func() ([]netip.Addr, error)
	// moved is called when something of the Node is different that an agent goes by;
	// nil: nobody cares.
	moved func()

	known chan struct{} // closed once the Node was read

	mu      sync.Mutex // guards everything below
	listed  []netip.Addr
	members []netip.Addr // of listed, where it talks to other nodes
	zoned   string
	labeled labels.Set
	leaving string
	unready string // why it is not Ready, empty if it is
	agreed  bool   // this host once had an address that the Node listed
	told    string
}

func newSelf(name string, client nodes, host func() ([]netip.Addr, error)) *self {
	return &self{name: name, client: client, host: host, known: make(chan struct{})}
}

// read reads the Node.
func (s *self) read(ctx context.Context) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	node, err := s.client.Get(ctx, s.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no Node %q: give this node's name with --node-name or the environment variable NODE_NAME", s.name)
	case err != nil:
		return nil, fmt.Errorf("read Node %s: %w", s.name, err)
	}
	s.take(node)
	return node, nil
}

// take keeps what matters of the Node.
func (s *self) take(node *corev1.Node) {
	listed, zoned := listedAddresses(node), node.Labels[corev1.LabelTopologyZone]
	leaving, unready := departure(node), unreadiness(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	members := memberAddresses(node)
	same := slices.Equal(listed, s.listed) && slices.Equal(members, s.members) && zoned == s.zoned && maps.Equal(node.Labels, s.labeled) &&
		leaving == s.leaving && unready == s.unready
	if !same && s.moved != nil {
		defer s.moved()
	}
	s.listed, s.members, s.zoned, s.labeled, s.leaving, s.unready = listed, members, zoned, node.Labels, leaving, unready
	select {
	case <-s.known:
	default:
		close(s.known)
	}
}

// pass reads the Node and follows it until the watch ends, as all do: the next pass
// reads it anew, so that nothing is missed for longer than a watch lasts.
func (s *self) pass(ctx context.Context, _ bool) error {
	node, err := s.read(ctx)
	if err != nil {
		return err
	}
	err = followNodes(ctx, s.client, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, s.name).String(),
		ResourceVersion: node.ResourceVersion,
	}, func(node *corev1.Node, gone bool) (on bool) {
		if !gone {
			s.take(node)
		}
		return !gone
	})
	if err != nil {
		return fmt.Errorf("watch Node %s: %w", s.name, err)
	}
	return nil
}

// followNodes hands over Nodes as a watch brings them, until it ends, ctx does, or take does
// not want to go on.
func followNodes(ctx context.Context, client nodeWatch, options metav1.ListOptions, take func(node *corev1.Node, gone bool) (on bool)) error {
	options.TimeoutSeconds = ptr.To(int64(watchTimeout / time.Second))
	w, err := client.Watch(ctx, options)
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, open := <-w.ResultChan():
			switch node, ok := event.Object.(*corev1.Node); {
			case !open:
				return nil
			case !ok:
				return apierrors.FromObject(event.Object)
			case !take(node, event.Type == watch.Deleted):
				return nil
			}
		}
	}
}

// owner is the reference that lets an object of this agent go together with the
// Node. It is read anew: a node that was registered again has another identity.
func (s *self) owner(ctx context.Context) (metav1.OwnerReference, error) {
	node, err := s.read(ctx)
	if err != nil {
		return metav1.OwnerReference{}, err
	}
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}, nil
}

// addresses are those of this host that its Node lists: a host also has addresses
// that others cannot reach, such as those of the container network. Where the
// Node never listed one that the host has, all of the host's count; where it did,
// it is late, and the new address is not served before it is listed.
func (s *self) addresses(ctx context.Context) ([]netip.Addr, error) {
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	both := slices.DeleteFunc(slices.Clone(host), func(a netip.Addr) bool { return !slices.Contains(s.listed, a) })
	s.agreed = s.agreed || len(both) > 0
	if s.agreed || len(host) == 0 {
		s.told = ""
		return both, nil
	}
	if now := fmt.Sprint(s.listed); s.told != now {
		s.told = now
		klog.FromContext(ctx).Info("The Node lists no address that this host has: Gateways are served at all of the host's, or name one with --node-address",
			"node", s.name, "listed", now, "host", fmt.Sprint(host))
	}
	return host, nil
}

// zone is the Node's, empty if it has none.
func (s *self) zone() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zoned
}

// labels are the Node's. They must not be changed.
func (s *self) labels() labels.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.labeled
}

// memberAddress is where this node talks to others, which the Node lists and this host
// should have.
func (s *self) memberAddress(network netip.Prefix) (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, ok := memberAddress(s.members, netip.Addr{}, network)
	switch {
	case ok:
		return addr, nil
	case network.IsValid():
		return addr, fmt.Errorf("the Node %s lists no InternalIP in --layer2-network %s (it lists %v): give a network in which each Node lists one", s.name, network, s.members)
	default:
		return addr, fmt.Errorf("the Node %s lists no InternalIP: other nodes could not find this one", s.name)
	}
}

// hasMoved reports whether this node is to talk to others at another address than before:
// the Node lists that no more, and this host has what it lists now. Whatever else a Node
// lists, others go on finding this node where it is.
func (s *self) hasMoved(from netip.Addr, network netip.Prefix) bool {
	to, err := s.memberAddress(network)
	if err != nil || to == from {
		return false
	}
	host, err := s.host()
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && slices.Contains(host, to) && !slices.Contains(s.members, from)
}

// departure is why traffic should enter at other nodes, empty if it need not; unready is why
// it should if that lasts.
func (s *self) departure() (why, unready string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving, s.unready
}

// departure reads from a Node that somebody is about to drain it, or that it is not to be
// used by load balancers.
func departure(node *corev1.Node) string {
	_, excluded := node.Labels[corev1.LabelNodeExcludeBalancers]
	switch {
	case node.Spec.Unschedulable:
		return "it is cordoned (spec.unschedulable)"
	case excluded:
		return "it has the label " + corev1.LabelNodeExcludeBalancers
	}
	return ""
}

// unreadiness reads from a Node that its kubelet says, or is taken to say, that it is not
// ready.
func unreadiness(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return "its condition Ready is " + string(c.Status)
		}
	}
	return ""
}

// listedAddresses are a Node's IP addresses, internal and external.
func listedAddresses(node *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) && err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return sortAddresses(addresses)
}
