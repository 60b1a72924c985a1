package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/integration/lab"
)

const (
	// Nodes of the cluster.
	Nodes = 3
	// System is the namespace of the product.
	System = "portway-system"
	// ClassName is the GatewayClass of the tests.
	ClassName = "portway"

	controllerName = "portway.dev/gateway-controller"
	// fullImage is what deploy-full names.
	fullImage  = "portway:e2e"
	readyLimit = time.Minute
)

// Options are what a cluster is started with.
type Options struct {
	// Name of the lab; another one is another lab.
	Name string
	// CRDs of the Gateway API, see lab.Options.
	CRDs string
	// KubeProxy, see lab.Options.
	KubeProxy string
	// Full and CNI, see lab.Options: the product is an image then.
	Full bool
	CNI  string
	// OnlyIPv4 and OnlyIPv6 are for clusters of one family; default both.
	OnlyIPv4, OnlyIPv6 bool
	// Deployment is the directory here of what Deploy applies; default "deploy", with
	// Full "deploy-full".
	Deployment string
	// BinDirs hold binaries for images of the tests; with Full, Archives are images.
	BinDirs, Archives []string
	// Images, see lab.Options.
	Images   map[string]string
	Progress io.Writer
}

// Cluster is a lab with clients.
type Cluster struct {
	*lab.Lab
	Kube    kubernetes.Interface
	Gateway gatewayclient.Interface
	root    string // of the repository
	deploy  string // the kustomization of the product
}

// Start builds the product and starts a lab without it.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	root, err := Repository()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(lab.CacheDir(), "product")
	if err := Compile(ctx, root, bin, o.Progress, "./cmd/portway-controller", "./cmd/portway-agent", "./cmd/portwayctl"); err != nil {
		return nil, err
	}
	dir := filepath.Join(lab.CacheDir(), o.Name)
	if old, err := lab.Open(dir); err == nil {
		if err := old.Down(); err != nil {
			return nil, err
		}
	}
	config := lab.Options{
		Dir: dir, Nodes: Nodes, Dual: !o.OnlyIPv4 && !o.OnlyIPv6, OnlyIPv6: o.OnlyIPv6, CRDs: o.CRDs, KubeProxy: o.KubeProxy,
		BinDirs: append([]string{bin}, o.BinDirs...), Images: o.Images, Progress: o.Progress,
	}
	deploy := "deploy"
	if o.Full {
		deploy = "deploy-full"
		archive := filepath.Join(bin, "portway.tar")
		if err := lab.Pack(archive, fullImage, filepath.Join(bin, "portway-controller"), filepath.Join(bin, "portway-agent")); err != nil {
			return nil, err
		}
		config.Full, config.CNI, config.BinDirs, config.Archives = true, o.CNI, nil, append([]string{archive}, o.Archives...)
	}
	l, err := lab.Up(ctx, config)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: l, root: root, deploy: filepath.Join(root, "integration", "e2e", cmp.Or(o.Deployment, deploy))}
	if err := c.connect(); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return c, nil
}

func (c *Cluster) connect() error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	if c.Kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	c.Gateway, err = gatewayclient.NewForConfig(config)
	return err
}

// Deploy applies the product and a GatewayClass. With wait it returns when all
// programs of the product are ready.
func (c *Cluster) Deploy(ctx context.Context, wait bool) error {
	manifests, err := c.Kubectl(ctx, "kustomize", "--load-restrictor=LoadRestrictionsNone", c.deploy)
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, manifests); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	if err := c.Apply(ctx, class); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

const class = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ` + ClassName + `}
spec: {controllerName: ` + controllerName + `}
`

// WaitReady waits until the controller and an agent on each node are ready.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	return Eventually(ctx, func() error {
		d, err := c.Kube.AppsV1().Deployments(System).Get(ctx, "portway-controller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != *d.Spec.Replicas {
			return fmt.Errorf("%d of %d controllers are available", d.Status.AvailableReplicas, *d.Spec.Replicas)
		}
		a, err := c.Kube.AppsV1().DaemonSets(System).Get(ctx, "portway-agent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return agentsReady(a)
	})
}

func agentsReady(a *appsv1.DaemonSet) error {
	if a.Status.ObservedGeneration != a.Generation || a.Status.DesiredNumberScheduled < Nodes || a.Status.NumberReady != a.Status.DesiredNumberScheduled {
		return fmt.Errorf("%d of %d agents are ready", a.Status.NumberReady, a.Status.DesiredNumberScheduled)
	}
	return nil
}

// Compile builds packages of a module into a directory.
func Compile(ctx context.Context, module, bin string, progress io.Writer, packages ...string) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	return compile(ctx, module, progress, append([]string{"build", "-o", bin + "/"}, packages...))
}

// CompileTest builds the tests of a module's root. They have a step of their own: the
// time limit of a test counts its compilation.
func CompileTest(ctx context.Context, module, binary string, progress io.Writer) error {
	return compile(ctx, module, progress, []string{"test", "-c", "-o", binary, "."})
}

func compile(ctx context.Context, module string, progress io.Writer, args []string) error {
	cmd := exec.CommandContext(ctx, "nice", slices.Concat([]string{"-n", "19", "go", args[0], "-p", "2", "-trimpath"}, args[1:])...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = module, progress, progress
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %v: %w", args, err)
	}
	return nil
}

// Eventually calls f until it returns nil or the context ends, then returns the last
// error of f.
func Eventually(ctx context.Context, f func() error) error {
	var last error
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Repository finds the root of the sources from the working directory upwards.
func Repository() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "base")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no repository above %s", here)
}
