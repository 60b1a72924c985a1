package cluster

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of k8s.io/kubernetes/pkg/apis/discovery/validation.
const (
	maxSliceEndpoints   = 1000
	maxSlicePorts       = 20_000
	maxEndpointAddrs    = 100
	maxHints            = 8
	maxAffinitySeconds  = 86400 // k8s.io/api/core/v1 ClientIPConfig.timeoutSeconds
	endpointAddressCure = "must be an %s address, as addressType says"
)

func validateService(s *corev1.Service) field.ErrorList {
	c := &checker{}
	oneOf(c, spec.Child("type"), s.Spec.Type,
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		c.subdomain(spec.Child("externalName"), s.Spec.ExternalName)
	}
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if ip := s.Spec.ClusterIP; ip != "" && !headless {
		if _, err := netip.ParseAddr(ip); err != nil {
			c.invalid(spec.Child("clusterIP"), ip, "must be an IP address or None")
		}
	}
	c.servicePolicies(s)
	ports := spec.Child("ports")
	if len(s.Spec.Ports) == 0 && !headless && s.Spec.Type != corev1.ServiceTypeExternalName {
		c.add(field.Required(ports, "give at least one port"))
	}
	names, sockets := map[string]int{}, map[string]int{}
	for i, p := range s.Spec.Ports {
		path := ports.Index(i)
		c.servicePort(path, p, len(s.Spec.Ports) > 1)
		if first, twice := names[p.Name]; twice && p.Name != "" {
			c.invalid(path.Child("name"), p.Name, "is already the name of ports[%d]; give every port its own", first)
		} else {
			names[p.Name] = i
		}
		socket := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if first, twice := sockets[socket]; twice {
			c.invalid(path.Child("port"), p.Port, "ports[%d] already has this port with protocol %s; remove one of them", first, p.Protocol)
		} else {
			sockets[socket] = i
		}
	}
	return c.errs
}

// servicePolicies checks how a Service wants its traffic distributed.
func (c *checker) servicePolicies(s *corev1.Service) {
	oneOf(c, spec.Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if config := s.Spec.SessionAffinityConfig; config != nil && config.ClientIP != nil && s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if seconds := config.ClientIP.TimeoutSeconds; seconds != nil && (*seconds < 1 || *seconds > maxAffinitySeconds) {
			c.invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), *seconds, "must be 1 to %d", maxAffinitySeconds)
		}
	}
	external := spec.Child("externalTrafficPolicy")
	switch policy := s.Spec.ExternalTrafficPolicy; {
	case policy == "":
	case !externallyAccessible(s):
		c.invalid(external, policy, "is for Services of type NodePort or LoadBalancer; set spec.type to one of them (the Gateway needs neither the node port nor the load balancer), or remove it")
	default:
		oneOf(c, external, policy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	if policy := s.Spec.InternalTrafficPolicy; policy != nil {
		oneOf(c, spec.Child("internalTrafficPolicy"), *policy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
}

func (c *checker) servicePort(path *field.Path, p corev1.ServicePort, several bool) {
	switch {
	case p.Name != "":
		c.texts(path.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))
	case several:
		c.add(field.Required(path.Child("name"), "a Service with several ports names each of them"))
	}
	c.port(path.Child("port"), p.Port)
	oneOf(c, path.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	switch p.TargetPort.Type {
	case intstr.Int:
		if p.TargetPort.IntVal != p.Port {
			c.port(path.Child("targetPort"), p.TargetPort.IntVal)
		}
	case intstr.String:
		c.texts(path.Child("targetPort"), p.TargetPort.StrVal, validation.IsValidPortName(p.TargetPort.StrVal))
	}
	if p.NodePort < 0 || p.NodePort > 65535 {
		c.invalid(path.Child("nodePort"), p.NodePort, "must be 0 to 65535")
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	c := &checker{}
	labels := field.NewPath("metadata", "labels")
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		c.add(field.Required(labels.Key(discoveryv1.LabelServiceName), "say which Service these endpoints belong to"))
	}
	switch s.AddressType {
	case "":
		c.add(field.Required(field.NewPath("addressType"), "use IPv4, IPv6 or FQDN"))
	default:
		oneOf(c, field.NewPath("addressType"), s.AddressType,
			discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	}
	endpoints := field.NewPath("endpoints")
	c.tooMany(endpoints, len(s.Endpoints), maxSliceEndpoints, "move the others to a second EndpointSlice of the same Service")
	for i, e := range s.Endpoints {
		path := endpoints.Index(i)
		if len(e.Addresses) == 0 {
			c.add(field.Required(path.Child("addresses"), "give the endpoint an address"))
		}
		c.tooMany(path.Child("addresses"), len(e.Addresses), maxEndpointAddrs, "one is enough, the others are not used")
		for j, address := range e.Addresses {
			c.endpointAddress(path.Child("addresses").Index(j), s.AddressType, address)
		}
		if e.NodeName != nil {
			c.subdomain(path.Child("nodeName"), *e.NodeName)
		}
		c.hints(path.Child("hints"), e.Hints)
	}
	c.slicePorts(field.NewPath("ports"), s.Ports)
	return c.errs
}

// endpointAddress checks the form only: addresses that make no sense as
// endpoints (loopback, multicast …) are the decision's business, which drops
// them with a warning.
func (c *checker) endpointAddress(path *field.Path, family discoveryv1.AddressType, address string) {
	ip, err := netip.ParseAddr(address)
	plain := err == nil && ip.Zone() == ""
	switch family {
	case discoveryv1.AddressTypeIPv4:
		if !plain || !ip.Is4() {
			c.invalid(path, address, endpointAddressCure, "IPv4")
		}
	case discoveryv1.AddressTypeIPv6:
		if !plain || !ip.Is6() || ip.Is4In6() {
			c.invalid(path, address, endpointAddressCure, "IPv6")
		}
	case discoveryv1.AddressTypeFQDN:
		c.errs = append(c.errs, validation.IsFullyQualifiedDomainName(path, address)...)
	}
}

func (c *checker) hints(path *field.Path, hints *discoveryv1.EndpointHints) {
	if hints == nil {
		return
	}
	const cure = "remove the others"
	zones, nodes := path.Child("forZones"), path.Child("forNodes")
	c.tooMany(zones, len(hints.ForZones), maxHints, cure)
	for i, zone := range hints.ForZones {
		c.texts(zones.Index(i).Child("name"), zone.Name, validation.IsValidLabelValue(zone.Name))
	}
	c.tooMany(nodes, len(hints.ForNodes), maxHints, cure)
	for i, node := range hints.ForNodes {
		c.subdomain(nodes.Index(i).Child("name"), node.Name)
	}
}

func (c *checker) slicePorts(path *field.Path, ports []discoveryv1.EndpointPort) {
	c.tooMany(path, len(ports), maxSlicePorts, "move the others to a second EndpointSlice of the same Service")
	names := map[string]int{}
	for i, p := range ports {
		path := path.Index(i)
		name := *p.Name
		if name != "" {
			c.texts(path.Child("name"), name, validation.IsDNS1123Label(name))
		}
		if first, twice := names[name]; twice {
			c.invalid(path.Child("name"), name, "is already the name of ports[%d]; give every port its own", first)
		} else {
			names[name] = i
		}
		oneOf(c, path.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.Port != nil {
			c.port(path.Child("port"), *p.Port)
		}
	}
}
