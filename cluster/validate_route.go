package cluster

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func validateTCPRoute(r *gatewayv1.TCPRoute) field.ErrorList {
	rules := make([]routeRule, 0, len(r.Spec.Rules))
	for _, rule := range r.Spec.Rules {
		rules = append(rules, routeRule(rule))
	}
	return validateRoute(r.APIVersion, r.Spec.ParentRefs, rules)
}

func validateUDPRoute(r *gatewayv1.UDPRoute) field.ErrorList {
	rules := make([]routeRule, 0, len(r.Spec.Rules))
	for _, rule := range r.Spec.Rules {
		rules = append(rules, routeRule(rule))
	}
	return validateRoute(r.APIVersion, r.Spec.ParentRefs, rules)
}

// routeRule is a rule of a TCPRoute or UDPRoute.
type routeRule = struct {
	Name        *gatewayv1.SectionName `json:"name,omitempty"`
	BackendRefs []gatewayv1.BackendRef `json:"backendRefs,omitempty"`
}

func validateRoute(apiVersion string, parents []gatewayv1.ParentReference, rules []routeRule) field.ErrorList {
	c := &checker{}
	c.parentRefs(spec.Child("parentRefs"), parents)
	path := spec.Child("rules")
	switch {
	case len(rules) == 0:
		c.add(field.Required(path, "one rule is needed"))
	case apiVersion == gatewayGroup+"/v1alpha2":
		c.tooMany(path, len(rules), maxRules, "move the others to a second route")
	default:
		c.tooMany(path, len(rules), 1, "put all backendRefs into one rule, or write a route for each")
	}
	for i, rule := range rules {
		path := path.Index(i)
		if rule.Name != nil {
			c.subdomain(path.Child("name"), string(*rule.Name))
		}
		c.backendRefs(path.Child("backendRefs"), rule.BackendRefs)
	}
	return c.errs
}

func (c *checker) parentRefs(path *field.Path, refs []gatewayv1.ParentReference) {
	c.tooMany(path, len(refs), maxParentRefs, "move the others to a second route")
	parents := map[string]int{}
	for i, ref := range refs {
		path := path.Index(i)
		c.group(path.Child("group"), *ref.Group)
		c.kind(path.Child("kind"), *ref.Kind)
		c.named(path.Child("name"), string(ref.Name))
		c.namespace(path.Child("namespace"), ref.Namespace)
		if ref.SectionName != nil {
			c.subdomain(path.Child("sectionName"), string(*ref.SectionName))
		}
		if ref.Port != nil {
			c.port(path.Child("port"), *ref.Port)
		}
		c.sameParent(path, refs, parents, i)
	}
}

// sameParent applies the CEL rules about several parentRefs to one parent: all
// of them have a sectionName, and no two the same. In the standard channel a
// port does not count.
func (c *checker) sameParent(path *field.Path, refs []gatewayv1.ParentReference, parents map[string]int, i int) {
	ref := refs[i]
	id := fmt.Sprintf("%s/%s %s/%s", *ref.Group, *ref.Kind, ptr.Deref(ref.Namespace, ""), ref.Name)
	first, again := parents[id]
	if !again {
		parents[id] = i
		return
	}
	section := func(j int) gatewayv1.SectionName { return ptr.Deref(refs[j].SectionName, "") }
	if section(i) == "" || section(first) == "" {
		c.add(field.Required(path.Child("sectionName"), fmt.Sprintf(
			"parentRefs[%d] names the same %s %s; give a sectionName in each of them (a port is not enough), or write a second route",
			first, *ref.Kind, ref.Name)))
		return
	}
	for j := range i {
		other := fmt.Sprintf("%s/%s %s/%s", *refs[j].Group, *refs[j].Kind, ptr.Deref(refs[j].Namespace, ""), refs[j].Name)
		if other == id && section(j) == section(i) {
			c.invalid(path.Child("sectionName"), string(section(i)), "is already in parentRefs[%d]; remove one of them", j)
			return
		}
	}
}

func (c *checker) backendRefs(path *field.Path, refs []gatewayv1.BackendRef) {
	if len(refs) == 0 {
		c.add(field.Required(path, "name at least one backend"))
	}
	c.tooMany(path, len(refs), maxBackendRefs, "put the endpoints of several backends behind one Service")
	for i, ref := range refs {
		path := path.Index(i)
		c.group(path.Child("group"), *ref.Group)
		c.kind(path.Child("kind"), *ref.Kind)
		c.named(path.Child("name"), string(ref.Name))
		c.namespace(path.Child("namespace"), ref.Namespace)
		switch {
		case ref.Port != nil:
			c.port(path.Child("port"), *ref.Port)
		case *ref.Group == "" && *ref.Kind == "Service":
			c.add(field.Required(path.Child("port"), "give the port of the Service"))
		}
		if w := *ref.Weight; w < 0 || w > maxWeight {
			c.invalid(path.Child("weight"), w, "must be 0 to %d", maxWeight)
		}
	}
}

func validateReferenceGrant(g *gatewayv1.ReferenceGrant) field.ErrorList {
	c := &checker{}
	from, to := spec.Child("from"), spec.Child("to")
	if len(g.Spec.From) == 0 {
		c.add(field.Required(from, "say whose references are allowed"))
	}
	if len(g.Spec.To) == 0 {
		c.add(field.Required(to, "say what may be referred to"))
	}
	c.tooMany(from, len(g.Spec.From), maxGrantItems, "move the others to a second ReferenceGrant")
	c.tooMany(to, len(g.Spec.To), maxGrantItems, "move the others to a second ReferenceGrant")
	for i, f := range g.Spec.From {
		path := from.Index(i)
		c.group(path.Child("group"), f.Group)
		c.kind(path.Child("kind"), f.Kind)
		if f.Namespace == "" {
			c.add(field.Required(path.Child("namespace"), "name the namespace of the references"))
		} else {
			c.namespace(path.Child("namespace"), &f.Namespace)
		}
	}
	for i, t := range g.Spec.To {
		path := to.Index(i)
		c.group(path.Child("group"), t.Group)
		c.kind(path.Child("kind"), t.Kind)
		if t.Name != nil {
			c.named(path.Child("name"), string(*t.Name))
		}
	}
	return c.errs
}
