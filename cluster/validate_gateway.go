package cluster

import (
	"fmt"
	"net/netip"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Limits of the Gateway API v1.6.3.
const (
	maxListeners   = 64
	maxAddresses   = 16
	maxKinds       = 8
	maxParentRefs  = 32
	maxRules       = 16 // v1alpha2; v1 allows one
	maxBackendRefs = 16
	maxWeight      = 1_000_000
	maxGrantItems  = 16
)

var spec = field.NewPath("spec")

var controllerPattern = regexp.MustCompile(
	`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$`)

func validateGatewayClass(class *gatewayv1.GatewayClass) field.ErrorList {
	c := &checker{}
	name, path := string(class.Spec.ControllerName), spec.Child("controllerName")
	switch {
	case name == "":
		c.add(field.Required(path, "name the controller, such as portway.dev/gateway-controller"))
	case len(name) > 253 || !controllerPattern.MatchString(name):
		c.invalid(path, name, "must be a domain and a path of at most 253 characters, such as portway.dev/gateway-controller")
	}
	if d := class.Spec.Description; d != nil && len([]rune(*d)) > 64 {
		c.invalid(spec.Child("description"), *d, "must be no more than 64 characters")
	}
	if ref := class.Spec.ParametersRef; ref != nil {
		path := spec.Child("parametersRef")
		c.group(path.Child("group"), ref.Group)
		c.kind(path.Child("kind"), ref.Kind)
		c.named(path.Child("name"), ref.Name)
		c.namespace(path.Child("namespace"), ref.Namespace)
	}
	return c.errs
}

func validateNamespace(*corev1.Namespace) field.ErrorList { return nil }

func validateGateway(g *gatewayv1.Gateway) field.ErrorList {
	c := &checker{}
	c.named(spec.Child("gatewayClassName"), string(g.Spec.GatewayClassName))
	entries := make([]gatewayv1.ListenerEntry, 0, len(g.Spec.Listeners))
	for _, l := range g.Spec.Listeners {
		entries = append(entries, gatewayv1.ListenerEntry(l))
	}
	c.listeners(spec.Child("listeners"), entries, "move the others to a ListenerSet or a second Gateway")
	c.addresses(spec.Child("addresses"), g.Spec.Addresses)
	if allowed := g.Spec.AllowedListeners; allowed != nil {
		oneOf(c, spec.Child("allowedListeners", "namespaces", "from"), *allowed.Namespaces.From,
			gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSelector, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone)
	}
	if infra := g.Spec.Infrastructure; infra != nil {
		path := spec.Child("infrastructure")
		c.tooMany(path.Child("labels"), len(infra.Labels), 8, "remove the others")
		c.tooMany(path.Child("annotations"), len(infra.Annotations), 16, "remove the others")
		if ref := infra.ParametersRef; ref != nil {
			path := path.Child("parametersRef")
			c.group(path.Child("group"), ref.Group)
			c.kind(path.Child("kind"), ref.Kind)
			c.named(path.Child("name"), ref.Name)
		}
	}
	return c.errs
}

func validateListenerSet(s *gatewayv1.ListenerSet) field.ErrorList {
	c := &checker{}
	path := spec.Child("parentRef")
	c.group(path.Child("group"), *s.Spec.ParentRef.Group)
	c.kind(path.Child("kind"), *s.Spec.ParentRef.Kind)
	c.named(path.Child("name"), string(s.Spec.ParentRef.Name))
	c.namespace(path.Child("namespace"), s.Spec.ParentRef.Namespace)
	c.listeners(spec.Child("listeners"), s.Spec.Listeners, "move the others to a second ListenerSet")
	return c.errs
}

func (c *checker) listeners(path *field.Path, listeners []gatewayv1.ListenerEntry, cure string) {
	if len(listeners) == 0 {
		c.add(field.Required(path, "at least one listener is needed"))
	}
	c.tooMany(path, len(listeners), maxListeners, cure)
	names := map[gatewayv1.SectionName]int{}
	sockets := map[string]int{}
	for i, l := range listeners {
		path := path.Index(i)
		c.listener(path, l)
		if first, twice := names[l.Name]; twice && l.Name != "" {
			c.invalid(path.Child("name"), string(l.Name), "is already the name of listeners[%d]; give every listener its own", first)
			continue
		}
		names[l.Name] = i
		socket := fmt.Sprintf("%d %s %s", l.Port, l.Protocol, ptr.Deref(l.Hostname, ""))
		if first, twice := sockets[socket]; twice {
			c.invalid(path.Child("port"), l.Port, "listeners[%d] already has this port with protocol %s; choose another port", first, l.Protocol)
			continue
		}
		sockets[socket] = i
	}
}

var (
	protocolPattern = regexp.MustCompile(
		`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$`)
	hostnamePattern = regexp.MustCompile(`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

func (c *checker) listener(path *field.Path, l gatewayv1.ListenerEntry) {
	c.subdomain(path.Child("name"), string(l.Name))
	c.port(path.Child("port"), l.Port)
	switch protocol := string(l.Protocol); {
	case protocol == "":
		c.add(field.Required(path.Child("protocol"), "use TCP or UDP"))
	case len(protocol) > 255 || !protocolPattern.MatchString(protocol):
		c.invalid(path.Child("protocol"), protocol, "must be a protocol; use TCP or UDP")
	}
	if l.Hostname != nil {
		switch host := string(*l.Hostname); {
		case l.Protocol == gatewayv1.TCPProtocolType || l.Protocol == gatewayv1.UDPProtocolType:
			c.add(field.Forbidden(path.Child("hostname"), "TCP and UDP carry no host name; remove it"))
		case len(host) > 253 || !hostnamePattern.MatchString(host):
			c.invalid(path.Child("hostname"), host, "must be a DNS name of at most 253 characters, \"*.\" in front of it allowed")
		}
	}
	c.listenerTLS(path.Child("tls"), l)
	if routes := l.AllowedRoutes; routes != nil {
		path := path.Child("allowedRoutes")
		oneOf(c, path.Child("namespaces", "from"), *routes.Namespaces.From,
			gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSelector, gatewayv1.NamespacesFromSame)
		c.tooMany(path.Child("kinds"), len(routes.Kinds), maxKinds, "remove the others")
		for i, k := range routes.Kinds {
			c.group(path.Child("kinds").Index(i).Child("group"), *k.Group)
			c.kind(path.Child("kinds").Index(i).Child("kind"), k.Kind)
		}
	}
}

func (c *checker) listenerTLS(path *field.Path, l gatewayv1.ListenerEntry) {
	switch {
	case l.TLS == nil:
		if l.Protocol == gatewayv1.TLSProtocolType {
			c.add(field.Required(path.Child("mode"), "protocol TLS needs a mode"))
		}
		return
	case l.Protocol == gatewayv1.TCPProtocolType, l.Protocol == gatewayv1.UDPProtocolType, l.Protocol == gatewayv1.HTTPProtocolType:
		c.add(field.Forbidden(path, fmt.Sprintf("protocol %s has no TLS; remove it", l.Protocol)))
		return
	}
	oneOf(c, path.Child("mode"), *l.TLS.Mode, gatewayv1.TLSModeTerminate, gatewayv1.TLSModePassthrough)
	if *l.TLS.Mode == gatewayv1.TLSModeTerminate && len(l.TLS.CertificateRefs) == 0 && len(l.TLS.Options) == 0 {
		c.add(field.Required(path.Child("certificateRefs"), "mode Terminate needs a certificate"))
	}
	if *l.TLS.Mode == gatewayv1.TLSModePassthrough && l.Protocol == gatewayv1.HTTPSProtocolType {
		c.invalid(path.Child("mode"), string(*l.TLS.Mode), "must be Terminate for protocol HTTPS")
	}
}

func (c *checker) addresses(path *field.Path, addresses []gatewayv1.GatewaySpecAddress) {
	c.tooMany(path, len(addresses), maxAddresses, "remove the others or use a second Gateway")
	seen := map[string]int{}
	for i, a := range addresses {
		path := path.Index(i).Child("value")
		if *a.Type == gatewayv1.IPAddressType && a.Value != "" {
			if ip, err := netip.ParseAddr(a.Value); err != nil || ip.Zone() != "" {
				c.invalid(path, a.Value, "must be an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1")
			}
		}
		if len(a.Value) > 253 {
			c.invalid(path, a.Value, "must be no more than 253 characters")
		}
		id := string(*a.Type) + " " + a.Value
		if first, twice := seen[id]; twice && a.Value != "" {
			c.invalid(path, a.Value, "is already addresses[%d]; remove one of them", first)
			continue
		}
		seen[id] = i
	}
}
