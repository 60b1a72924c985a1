// Command fakekubelet plays a node of the lab. It runs in the node's namespaces,
// registers the node, and runs the pods bound to it as processes: see packages
// node, pod and sandbox.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/node"
	"github.com/portway-dev/portway/integration/lab/fakekubelet/pod"
	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == sandbox.EnterCommand {
		fmt.Fprintln(os.Stderr, "container:", sandbox.Enter())
		os.Exit(128)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		klog.Background().Error(err, "Fake kubelet failed")
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var name, boot, kubeconfig, dir, images, apiServer string
	var addresses, ranges []string
	set := pflag.NewFlagSet("fakekubelet", pflag.ContinueOnError)
	set.StringVar(&name, "node", "", "name of the node")
	set.StringVar(&boot, "boot-id", "", "changes with every boot")
	set.StringVar(&kubeconfig, "kubeconfig", "", "credentials of the node")
	set.StringSliceVar(&addresses, "addresses", nil, "of the node, IPv4 first")
	set.StringSliceVar(&ranges, "pod-ranges", nil, "of the pods, in the order of the addresses")
	set.StringVar(&apiServer, "api-server", "", "address and port that pods are told")
	set.StringVar(&dir, "dir", "", "where logs and volumes are written")
	set.StringVar(&images, "images", "", "file that says which binary stands for an image")
	verbosity := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(verbosity)
	set.AddGoFlag(verbosity.Lookup("v"))
	if err := set.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.RateLimiter = -1, nil
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	addrs, addrErr := parseAll(addresses, netip.ParseAddr)
	prefixes, prefixErr := parseAll(ranges, netip.ParsePrefix)
	api, apiErr := netip.ParseAddrPort(apiServer)
	if err := errors.Join(addrErr, prefixErr, apiErr); err != nil {
		return err
	}
	if len(addrs) == 0 || len(addrs) != len(prefixes) {
		return fmt.Errorf("%d addresses (%s) and %d ranges", len(addrs), strings.Join(addresses, ","), len(prefixes))
	}
	host := pod.NewHost(pod.Config{
		Client: client, Node: name, BootID: boot, Addresses: addrs, Ranges: prefixes, APIServer: api, Dir: dir, Images: pod.Images(images),
	})
	n := node.New(node.Config{Client: client, Name: name, BootID: boot, Addresses: addrs, PodRanges: prefixes})
	if err := n.Register(ctx); err != nil {
		return err
	}
	go n.Run(ctx)
	return host.Run(ctx)
}

func parseAll[T any](values []string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, value := range values {
		one, err := parse(value)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}
