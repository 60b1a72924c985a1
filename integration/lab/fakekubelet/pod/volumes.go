package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

const defaultMode = 0o644

// token is a service account token in a volume.
type token struct {
	value string
	renew time.Time // after four fifths of its life, as upstream's kubelet
}

// tokenRetry is after how long a failed renewal is tried again.
const tokenRetry = 5 * time.Second

// syncVolumes brings the volumes of a pod up to date. They change under running
// containers; a volume that cannot be made now keeps the pod waiting.
func (w *worker) syncVolumes(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if err := w.syncVolume(ctx, pod, volume); err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", volume.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (w *worker) syncVolume(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) error {
	dir := filepath.Join(w.host.podDir(pod.UID), "volumes", volume.Name)
	if volume.EmptyDir != nil {
		w.volumes[volume.Name] = dir
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		return os.Chmod(dir, 0o777)
	}
	if volume.HostPath != nil {
		source, err := w.host.hostPath(volume.HostPath)
		w.volumes[volume.Name] = source
		return err
	}
	files := map[string]payload{}
	if err := w.addSource(ctx, pod, volume, files); err != nil {
		return err
	}
	w.volumes[volume.Name] = dir
	_, err := writeVolume(dir, files)
	return err
}

func (w *worker) addSource(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume, files map[string]payload) error {
	switch source := volume.VolumeSource; {
	case source.ConfigMap != nil:
		s := source.ConfigMap
		return w.addKeys(ctx, objectKey{"configmaps", pod.Namespace, s.Name}, s.Items, s.DefaultMode, s.Optional, files)
	case source.Secret != nil:
		s := source.Secret
		return w.addKeys(ctx, objectKey{"secrets", pod.Namespace, s.SecretName}, s.Items, s.DefaultMode, s.Optional, files)
	case source.DownwardAPI != nil:
		return w.addDownward(pod, source.DownwardAPI.Items, source.DownwardAPI.DefaultMode, files)
	case source.Projected != nil:
		for _, s := range source.Projected.Sources {
			if err := w.addProjection(ctx, pod, s, source.Projected.DefaultMode, files); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New("this kind of volume does not exist in the lab")
	}
}

func (w *worker) addProjection(ctx context.Context, pod *corev1.Pod, s corev1.VolumeProjection, mode *int32, files map[string]payload) error {
	switch {
	case s.ConfigMap != nil:
		return w.addKeys(ctx, objectKey{"configmaps", pod.Namespace, s.ConfigMap.Name}, s.ConfigMap.Items, mode, s.ConfigMap.Optional, files)
	case s.Secret != nil:
		return w.addKeys(ctx, objectKey{"secrets", pod.Namespace, s.Secret.Name}, s.Secret.Items, mode, s.Secret.Optional, files)
	case s.DownwardAPI != nil:
		return w.addDownward(pod, s.DownwardAPI.Items, mode, files)
	case s.ServiceAccountToken != nil:
		value, err := w.token(ctx, pod, s.ServiceAccountToken)
		if err != nil {
			return err
		}
		files[s.ServiceAccountToken.Path] = payload{[]byte(value), modeOf(nil, mode)}
		return nil
	default:
		return errors.New("this kind of projection does not exist in the lab")
	}
}

func (w *worker) addKeys(ctx context.Context, key objectKey, items []corev1.KeyToPath, mode *int32, optional *bool, files map[string]payload) error {
	may := optional != nil && *optional
	data, found, err := w.host.objects.data(ctx, key, w)
	if err != nil {
		return err
	}
	if !found {
		if may {
			return nil
		}
		return fmt.Errorf("%s %q not found", key.resource, key.namespace+"/"+key.name)
	}
	if len(items) == 0 {
		for name, content := range data {
			files[name] = payload{content, modeOf(nil, mode)}
		}
		return nil
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if may {
				continue
			}
			return fmt.Errorf("%s %q has no key %q", key.resource, key.namespace+"/"+key.name, item.Key)
		}
		files[path.Clean(item.Path)] = payload{content, modeOf(item.Mode, mode)}
	}
	return nil
}

func (w *worker) addDownward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32, files map[string]payload) error {
	for _, item := range items {
		if item.FieldRef == nil {
			return errors.New("resources do not exist in the lab")
		}
		value, err := w.field(pod, item.FieldRef.FieldPath)
		if err != nil {
			return err
		}
		files[path.Clean(item.Path)] = payload{[]byte(value), modeOf(item.Mode, mode)}
	}
	return nil
}

// token returns a token of the pod's service account that is bound to the pod: it
// ends with it. An old token is kept while there is no new one to be had.
func (w *worker) token(ctx context.Context, pod *corev1.Pod, s *corev1.ServiceAccountTokenProjection) (string, error) {
	key := s.Audience + " " + s.Path
	old, ok := w.tokens[key]
	if ok && time.Now().Before(old.renew) {
		return old.value, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	granted, err := w.host.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		if ok {
			w.tokens[key] = token{value: old.value, renew: time.Now().Add(tokenRetry)}
			return old.value, nil
		}
		return "", fmt.Errorf("token of service account %q: %w", pod.Spec.ServiceAccountName, err)
	}
	life := time.Until(granted.Status.ExpirationTimestamp.Time)
	w.tokens[key] = token{value: granted.Status.Token, renew: time.Now().Add(life * 4 / 5)}
	return granted.Status.Token, nil
}

// renewal is when the first token must be renewed.
func (w *worker) renewal() time.Time {
	var first time.Time
	for _, t := range w.tokens {
		if first.IsZero() || t.renew.Before(first) {
			first = t.renew
		}
	}
	return first
}

func modeOf(own, common *int32) fs.FileMode {
	switch {
	case own != nil:
		return fs.FileMode(*own)
	case common != nil:
		return fs.FileMode(*common)
	default:
		return defaultMode
	}
}

// hostPath returns the path on the node, which is made where the volume says so.
// Directories that the node shares with the machine are left alone: a path in them
// that does not exist is made in a directory of the lab instead.
func (h *Host) hostPath(volume *corev1.HostPathVolumeSource) (string, error) {
	source := filepath.Clean(volume.Path)
	if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) && !private(source) {
		source = filepath.Join(h.Dir, "root", source)
	}
	kind := corev1.HostPathUnset
	if volume.Type != nil {
		kind = *volume.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return source, os.MkdirAll(source, 0o755)
	case corev1.HostPathFileOrCreate:
		file, err := os.OpenFile(source, os.O_CREATE, 0o644)
		if err != nil {
			return "", err
		}
		return source, file.Close()
	default:
		_, err := os.Stat(source)
		return source, err
	}
}

// private reports whether a path is in a directory that each node has for itself.
func private(p string) bool {
	for _, dir := range []string{"/run", "/var/run", "/var/lib", "/var/log"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

// mounts are where a container sees its volumes. A subPath is resolved once, at
// the start of the container.
func (w *worker) mounts(c *corev1.Container) ([]sandbox.Mount, error) {
	var all []sandbox.Mount
	for _, m := range c.VolumeMounts {
		source, ok := w.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("no volume %q", m.Name)
		}
		if m.SubPath != "" {
			source = filepath.Join(source, m.SubPath)
			if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
				if err := os.MkdirAll(source, 0o777); err != nil {
					return nil, err
				}
			}
			resolved, err := filepath.EvalSymlinks(source)
			if err != nil {
				return nil, err
			}
			source = resolved
		}
		all = append(all, sandbox.Mount{Source: source, Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return all, nil
}
