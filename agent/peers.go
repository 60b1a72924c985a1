package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// allNodes lists Nodes and follows them.
type allNodes interface {
	List(ctx context.Context, options metav1.ListOptions) (*corev1.NodeList, error)
	nodeWatch
}

// peers are the nodes that should announce addresses together: all that can run an
// agent. Who of them takes part they find out from each other; this only tells where to
// ask. What was read last holds while the API server is away. Safe for concurrent use.
type peers struct {
	client  allNodes
	changed func()

	mu    sync.Mutex              // guards everything below
	nodes map[string][]netip.Addr // InternalIPs in the order of the Node; nil: not read yet
	err   error                   // why not
}

// pass reads all Nodes and follows them until the watch ends, as self.pass does.
func (p *peers) pass(ctx context.Context, _ bool) error {
	err := p.follow(ctx)
	p.mu.Lock()
	p.err = err
	unread := p.nodes == nil
	p.mu.Unlock()
	if err != nil && unread {
		p.changed()
	}
	return err
}

func (p *peers) follow(ctx context.Context) error {
	list, err := p.list(ctx)
	if err != nil {
		return fmt.Errorf("list Nodes: %w", err)
	}
	nodes := make(map[string][]netip.Addr, len(list.Items))
	for i := range list.Items {
		if addresses := memberAddresses(&list.Items[i]); addresses != nil {
			nodes[list.Items[i].Name] = addresses
		}
	}
	p.mu.Lock()
	p.nodes = nodes
	p.mu.Unlock()
	p.changed()
	err = followNodes(ctx, p.client, metav1.ListOptions{ResourceVersion: list.ResourceVersion}, func(node *corev1.Node, gone bool) (on bool) {
		p.take(node, gone)
		return true
	})
	if err != nil {
		return fmt.Errorf("watch Nodes: %w", err)
	}
	return nil
}

func (p *peers) list(ctx context.Context) (*corev1.NodeList, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return p.client.List(ctx, metav1.ListOptions{ResourceVersion: "0"}) // what the API server remembers will do
}

func (p *peers) take(node *corev1.Node, gone bool) {
	addresses := memberAddresses(node)
	p.mu.Lock()
	before, known := p.nodes[node.Name]
	if gone || addresses == nil {
		delete(p.nodes, node.Name)
	} else {
		p.nodes[node.Name] = addresses
	}
	same := known != gone && slices.Equal(before, addresses)
	p.mu.Unlock()
	if !same {
		p.changed()
	}
}

// members are where nodes talk to each other, one address each: the first of a family, in
// a network if that is valid. known is false while nobody has told.
func (p *peers) members(like netip.Addr, network netip.Prefix) (addresses []netip.Addr, known bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.nodes {
		if addr, ok := memberAddress(list, like, network); ok {
			addresses = append(addresses, addr)
		}
	}
	return sortAddresses(addresses), p.nodes != nil, p.err
}

// memberAddress picks the one of a node's addresses at which it talks to others; like is
// of the family, not valid: any.
func memberAddress(list []netip.Addr, like netip.Addr, network netip.Prefix) (netip.Addr, bool) {
	i := slices.IndexFunc(list, func(a netip.Addr) bool {
		return (!like.IsValid() || a.Is4() == like.Is4()) && (!network.IsValid() || network.Contains(a))
	})
	if i < 0 {
		return netip.Addr{}, false
	}
	return list[i], true
}

// memberAddresses are a Node's InternalIPs in its order, of which all nodes of a cluster
// have the same families first; nil for one that runs no agents.
func memberAddresses(node *corev1.Node) []netip.Addr {
	if os := node.Labels[corev1.LabelOSStable]; os != "" && os != string(corev1.Linux) {
		return nil
	}
	addresses := []netip.Addr{}
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
}
