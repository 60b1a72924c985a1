package cluster

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/addresses"
)

// Limits of our own kinds; see the markers in api/v1alpha1.
const (
	maxPoolAddresses  = 64
	maxPoolInterfaces = 16
	maxInterfaceName  = 15
	maxPermittedPools = 64
)

func validateAddressPool(p *v1alpha1.AddressPool) field.ErrorList {
	c := &checker{}
	path := spec.Child("addresses")
	if len(p.Spec.Addresses) == 0 {
		c.add(field.Required(path, "name the addresses, such as 192.0.2.0/24"))
	}
	c.tooMany(path, len(p.Spec.Addresses), maxPoolAddresses, "move the others to a second pool")
	for i, entry := range p.Spec.Addresses {
		if _, err := addresses.ParseRange(string(entry)); err != nil {
			c.invalid(path.Index(i), string(entry), "%s", strings.TrimPrefix(err.Error(), fmt.Sprintf("%q ", string(entry))))
		}
	}
	if namespaces := p.Spec.Namespaces; namespaces != nil {
		path := spec.Child("namespaces")
		oneOf(c, path.Child("from"), namespaces.From, v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSelector)
		selects := namespaces.From == v1alpha1.NamespacesFromSelector
		switch {
		case selects && namespaces.Selector == nil:
			c.invalid(path, string(namespaces.From), "from Selector needs a selector")
		case !selects && namespaces.Selector != nil:
			c.add(field.Forbidden(path.Child("selector"), "must not be given unless from is Selector"))
		}
	}
	if announcement := p.Spec.Announcement; announcement != nil {
		c.announcement(spec.Child("announcement"), announcement)
	}
	return c.errs
}

func (c *checker) announcement(at *field.Path, a *v1alpha1.Announcement) {
	oneOf(c, at.Child("mode"), a.Mode, v1alpha1.AnnouncementNone, v1alpha1.AnnouncementLayer2)
	if a.Mode != v1alpha1.AnnouncementLayer2 {
		const layer2 = "must not be given unless mode is Layer2"
		if a.Interfaces != nil {
			c.add(field.Forbidden(at.Child("interfaces"), layer2))
		}
		if a.NodeSelector != nil {
			c.add(field.Forbidden(at.Child("nodeSelector"), layer2))
		}
		return
	}
	at = at.Child("interfaces")
	if a.Interfaces != nil && len(a.Interfaces) == 0 {
		c.invalid(at, "[]", "must name an interface; remove it for all")
	}
	c.tooMany(at, len(a.Interfaces), maxPoolInterfaces, "use patterns, such as eth*")
	distinct(c, at, a.Interfaces)
	for i, name := range a.Interfaces {
		odd := strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`/[]\`, r) })
		if _, err := path.Match(name, ""); err != nil || odd || name == "" || len(name) > maxInterfaceName {
			c.invalid(at.Index(i), name, "must be a name of at most %d characters, or a pattern with * and ? such as eth*", maxInterfaceName)
		}
	}
}

func validateGatewayParameters(p *v1alpha1.GatewayParameters) field.ErrorList {
	c := &checker{}
	modes := []v1alpha1.AddressMode{v1alpha1.AddressModeNode, v1alpha1.AddressModePool, v1alpha1.AddressModeLoadBalancer}
	if p.Spec.Mode != "" {
		oneOf(c, spec.Child("mode"), p.Spec.Mode, modes...)
		for _, f := range []struct {
			name  string
			given bool
			mode  v1alpha1.AddressMode
		}{
			{"pool", p.Spec.Pool != "", v1alpha1.AddressModePool},
			{"nodeSelector", p.Spec.NodeSelector != nil, v1alpha1.AddressModeNode},
			{"nodeAddressType", p.Spec.NodeAddressType != "", v1alpha1.AddressModeNode},
			{"loadBalancerClass", p.Spec.LoadBalancerClass != "", v1alpha1.AddressModeLoadBalancer},
		} {
			if f.given && p.Spec.Mode != f.mode {
				c.add(field.Forbidden(spec.Child(f.name), fmt.Sprintf("must not be given unless mode is %s", f.mode)))
			}
		}
	}
	if p.Spec.Pool != "" {
		c.named(spec.Child("pool"), p.Spec.Pool)
	}
	if p.Spec.NodeAddressType != "" {
		oneOf(c, spec.Child("nodeAddressType"), p.Spec.NodeAddressType, v1alpha1.NodeAddressInternal, v1alpha1.NodeAddressExternal)
	}
	if p.Spec.IPFamilies != nil && len(p.Spec.IPFamilies) == 0 {
		c.invalid(spec.Child("ipFamilies"), "[]", "must name a family; remove it for the default")
	}
	c.families(spec.Child("ipFamilies"), p.Spec.IPFamilies)
	if permitted := p.Spec.Permitted; permitted != nil {
		path := spec.Child("permitted")
		distinct(c, path.Child("modes"), permitted.Modes)
		for i, mode := range permitted.Modes {
			oneOf(c, path.Child("modes").Index(i), mode, modes...)
		}
		c.tooMany(path.Child("pools"), len(permitted.Pools), maxPermittedPools, "remove the others")
		distinct(c, path.Child("pools"), permitted.Pools)
		for i, name := range permitted.Pools {
			c.named(path.Child("pools").Index(i), name)
		}
		c.families(path.Child("ipFamilies"), permitted.IPFamilies)
	}
	return c.errs
}

func (c *checker) families(path *field.Path, families []corev1.IPFamily) {
	distinct(c, path, families)
	for i, family := range families {
		oneOf(c, path.Index(i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)
	}
}

// distinct checks what is a set.
func distinct[T ~string](c *checker, path *field.Path, values []T) {
	for i, value := range values {
		if slices.Contains(values[:i], value) {
			c.add(field.Duplicate(path.Index(i), string(value)))
		}
	}
}
