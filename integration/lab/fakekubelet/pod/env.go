package pod

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"

// environment is what a container finds in its environment: as with images, the
// machine's is not passed on.
func (w *worker) environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (map[string]string, error) {
	api := w.host.APIServer
	env := map[string]string{
		"HOSTNAME":                hostname(pod, w.host.Node),
		"HOME":                    "/root",
		"KUBERNETES_SERVICE_HOST": api.Addr().String(),
		"KUBERNETES_SERVICE_PORT": fmt.Sprint(api.Port()),
	}
	name, value, _ := strings.Cut(searchPath, "=")
	env[name] = value
	for _, from := range c.EnvFrom {
		if err := w.addEnvFrom(ctx, pod, from, env); err != nil {
			return nil, err
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			env[e.Name] = expand(e.Value, env)
			continue
		}
		value, found, err := w.envValue(ctx, pod, e.ValueFrom)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", e.Name, err)
		}
		if found {
			env[e.Name] = value
		}
	}
	return env, nil
}

func (w *worker) addEnvFrom(ctx context.Context, pod *corev1.Pod, from corev1.EnvFromSource, env map[string]string) error {
	var key objectKey
	var optional *bool
	switch {
	case from.ConfigMapRef != nil:
		key, optional = objectKey{"configmaps", pod.Namespace, from.ConfigMapRef.Name}, from.ConfigMapRef.Optional
	case from.SecretRef != nil:
		key, optional = objectKey{"secrets", pod.Namespace, from.SecretRef.Name}, from.SecretRef.Optional
	default:
		return nil
	}
	data, found, err := w.host.objects.data(ctx, key, w)
	if err != nil {
		return err
	}
	if !found && (optional == nil || !*optional) {
		return fmt.Errorf("%s %q not found", key.resource, key.name)
	}
	for name, value := range data {
		env[from.Prefix+name] = string(value)
	}
	return nil
}

func (w *worker) envValue(ctx context.Context, pod *corev1.Pod, from *corev1.EnvVarSource) (value string, found bool, err error) {
	var key objectKey
	var item string
	var optional *bool
	switch {
	case from.FieldRef != nil:
		value, err := w.field(pod, from.FieldRef.FieldPath)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		key, item, optional = objectKey{"configmaps", pod.Namespace, ref.Name}, ref.Key, ref.Optional
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		key, item, optional = objectKey{"secrets", pod.Namespace, ref.Name}, ref.Key, ref.Optional
	case from.ResourceFieldRef != nil:
		// There are no limits. What asks for them gets what it gets on a node
		// that sets none: GOMAXPROCS and GOMEMLIMIT treat 0 as not set.
		return "0", true, nil
	default:
		return "", false, fmt.Errorf("this source does not exist in the lab")
	}
	data, _, err := w.host.objects.data(ctx, key, w)
	if err != nil {
		return "", false, err
	}
	content, ok := data[item]
	if !ok && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("%s %q has no key %q", key.resource, key.name, item)
	}
	return string(content), ok, nil
}

// field is the value of a fieldPath of the downward API.
func (w *worker) field(pod *corev1.Pod, path string) (string, error) {
	if name, key, ok := indexed(path); ok {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	node := w.host.Addresses
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return node[0].String(), nil
	case "status.hostIPs":
		return joined(node), nil
	case "status.podIP":
		return w.addrs[0].String(), nil
	case "status.podIPs":
		return joined(w.addrs), nil
	}
	return "", fmt.Errorf("no field %q", path)
}

// indexed splits metadata.labels['KEY'].
func indexed(path string) (name, key string, ok bool) {
	name, rest, ok := strings.Cut(path, "['")
	return name, strings.TrimSuffix(rest, "']"), ok
}

func lines(m map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%q\n", key, m[key])
	}
	return b.String()
}

func joined(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, ",")
}

// expand replaces $(NAME) by what the environment holds so far; $$ is one $, and
// an unknown name stays as it is written.
func expand(s string, env map[string]string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = rest
		if strings.HasPrefix(rest, "$") {
			b.WriteByte('$')
			s = rest[1:]
			continue
		}
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "("), ")")
		value, known := env[name]
		if !strings.HasPrefix(rest, "(") || !closed || !known {
			b.WriteByte('$')
			continue
		}
		b.WriteString(value)
		s = after
	}
}

func hostname(pod *corev1.Pod, node string) string {
	switch {
	case pod.Spec.HostNetwork:
		return node
	case pod.Spec.Hostname != "":
		return pod.Spec.Hostname
	case len(pod.Name) > 63:
		return strings.TrimRight(pod.Name[:63], "-.")
	default:
		return pod.Name
	}
}
