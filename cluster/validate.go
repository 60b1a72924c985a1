package cluster

import (
	"fmt"
	"regexp"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The rules of validate*.go are those of the API server: the schemas and CEL
// rules of the Gateway API's CRDs (v1.6.3, standard channel) and
// k8s.io/kubernetes/pkg/apis/{core,discovery}/validation. Every message says
// what would be right.

// checker collects what is wrong with one object.
type checker struct{ errs field.ErrorList }

func (c *checker) add(errs ...*field.Error) { c.errs = append(c.errs, errs...) }

func (c *checker) invalid(path *field.Path, value any, format string, args ...any) {
	c.add(field.Invalid(path, value, fmt.Sprintf(format, args...)))
}

// texts adds the complaints of the apimachinery's validation functions.
func (c *checker) texts(path *field.Path, value string, complaints []string) {
	for _, text := range complaints {
		c.add(field.Invalid(path, value, text))
	}
}

func (c *checker) tooMany(path *field.Path, actual, limit int, cure string) {
	if actual > limit {
		c.add(&field.Error{
			Type: field.ErrorTypeTooMany, Field: path.String(), BadValue: actual,
			Detail: fmt.Sprintf("at most %d allowed; %s", limit, cure),
		})
	}
}

func (c *checker) port(path *field.Path, port int32) {
	if port < 1 || port > 65535 {
		c.invalid(path, port, "must be 1 to 65535")
	}
}

// named checks a required name of at most 253 characters, the limit of all names
// in the Gateway API.
func (c *checker) named(path *field.Path, name string) {
	const limit = 253
	switch {
	case name == "":
		c.add(field.Required(path, "give a name"))
	case len(name) > limit:
		c.invalid(path, name, "must be no more than %d characters", limit)
	}
}

// subdomain checks a required DNS subdomain: lower case, at most 253 characters.
func (c *checker) subdomain(path *field.Path, name string) {
	if name == "" {
		c.add(field.Required(path, "give a name"))
		return
	}
	c.texts(path, name, validation.IsDNS1123Subdomain(name))
}

func (c *checker) namespace(path *field.Path, namespace *gatewayv1.Namespace) {
	if namespace != nil {
		c.texts(path, string(*namespace), validation.IsDNS1123Label(string(*namespace)))
	}
}

func (c *checker) group(path *field.Path, group gatewayv1.Group) {
	if group != "" {
		c.texts(path, string(group), validation.IsDNS1123Subdomain(string(group)))
	}
}

var kindPattern = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

func (c *checker) kind(path *field.Path, kind gatewayv1.Kind) {
	switch {
	case kind == "":
		c.add(field.Required(path, "name a kind, such as Service"))
	case len(kind) > 63 || !kindPattern.MatchString(string(kind)):
		c.invalid(path, string(kind), "must be a kind, such as Service: at most 63 letters, digits and '-'")
	}
}

// oneOf checks one of a few allowed values.
func oneOf[T ~string](c *checker, path *field.Path, value T, allowed ...T) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	c.add(field.NotSupported(path, value, allowed))
}

// validateMeta checks the metadata of an object of any kind.
func validateMeta(object Object, k kind) field.ErrorList {
	path := field.NewPath("metadata")
	if object.GetName() == "" {
		return field.ErrorList{field.Required(path.Child("name"), "give the object a name")}
	}
	name := apivalidation.NameIsDNSSubdomain
	switch k.name {
	case "Namespace", "Service":
		name = apivalidation.NameIsDNSLabel
	}
	var plain metav1.Object = object
	return apivalidation.ValidateObjectMetaAccessor(plain, !k.cluster, name, path)
}
