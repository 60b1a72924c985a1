// Command lab starts a real Kubernetes on this machine, in namespaces of its own,
// and works with it. See package lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab"
	"github.com/portway-dev/portway/integration/lab/internal/cgroup"
	"github.com/portway-dev/portway/integration/lab/internal/machine"
	"github.com/portway-dev/portway/integration/lab/internal/pid1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root().ExecuteContext(ctx)
	stop()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "lab", Short: "a real Kubernetes on this machine, in namespaces of its own",
		SilenceUsage: true, SilenceErrors: true, TraverseChildren: true,
	}
	c.PersistentFlags().StringVar(&dir, "dir", lab.DefaultDir(), "directory of the lab; PORTWAY_LAB_DIR")
	c.AddCommand(
		build(), up(&dir), down(&dir), status(&dir), logs(&dir), image(&dir), boot(), join(), removeGroups(), runMachine(),
		place(&dir, "shell", "machine", "on the machine of the API server", (*lab.Lab).Machine),
		place(&dir, "outside", "outside", "as a client outside the cluster", (*lab.Lab).Outside),
		node(&dir), pod(&dir), kubectl(&dir),
		onNode(&dir, "crash", "end a node like a power failure", (*lab.Lab).Crash),
		onNode(&dir, "boot", "start a node again, or a new one", (*lab.Lab).Boot),
		onNode(&dir, "disconnect", "take a node off the network", (*lab.Lab).Disconnect),
		onNode(&dir, "connect", "put a node back on the network", (*lab.Lab).Connect),
		proxy(&dir), kubelet(&dir), load(&dir), pack(),
		onComponent(&dir, "stop", "kill a component of the control plane", (*lab.Lab).Stop),
		onComponent(&dir, "start", "start a component of the control plane", (*lab.Lab).Start),
	)
	return c
}

func build() *cobra.Command {
	var full bool
	c := &cobra.Command{
		Use: "build", Short: "build the lab's programs, if they are out of date", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			compile := lab.Build
			if full {
				compile = lab.BuildFull
			}
			bin, err := compile(cmd.Context(), os.Stderr)
			if err == nil {
				fmt.Println(bin)
			}
			return err
		},
	}
	c.Flags().BoolVar(&full, "full", false, "those of the full level, too")
	return c
}

func up(dir *string) *cobra.Command {
	o := lab.Options{Progress: os.Stderr}
	c := &cobra.Command{
		Use: "up [NODES]", Short: "start a lab (default 3 nodes)", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir, o.Nodes = *dir, 3
			if len(args) == 1 {
				var err error
				if o.Nodes, err = strconv.Atoi(args[0]); err != nil {
					return err
				}
			}
			if o.KubeProxy == "none" {
				o.KubeProxy = ""
			}
			started := time.Now()
			l, err := lab.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			fmt.Printf("lab: %d nodes are up after %s; KUBECONFIG inside: %s\n", o.Nodes, time.Since(started).Round(10*time.Millisecond), l.Kubeconfig())
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&o.Dual, "dual", false, "IPv4 and IPv6")
	flags.BoolVar(&o.OnlyIPv6, "ipv6", false, "IPv6 alone")
	flags.BoolVar(&o.Full, "full", false, "full level: kubelet, containerd, runc and CNI plugins")
	flags.StringVar(&o.CNI, "cni", "", "full level: plugin that connects the pods, ptp (default) or bridge")
	flags.StringSliceVar(&o.Archives, "load", nil, "full level: image archive for every node")
	flags.StringVar(&o.CRDs, "crds", lab.CRDsStandard, "standard, experimental, v1alpha2, none or a directory")
	flags.StringToStringVar(&o.Images, "image", nil, "NAME=BINARY: small level: what stands for an image")
	flags.StringSliceVar(&o.BinDirs, "bin", nil, "small level: directory of binaries called like their images")
	flags.StringVar(&o.KubeProxy, "kube-proxy", "", "run kube-proxy on every node, in mode nftables (without a value), iptables, iptables-legacy or none (default)")
	flags.Lookup("kube-proxy").NoOptDefVal = lab.ProxyNFTables
	flags.BoolVar(&o.Audit, "audit", false, "record the requests of service accounts in audit.log")
	return c
}

func down(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "end the lab; its logs stay until the next up", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return l.Down()
		},
	}
}

func status(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "say what runs, by process numbers inside the lab", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			s, err := l.Status()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "ready\t%t\t%s\n", s.Ready, s.Failed)
			for _, name := range []string{lab.Etcd, lab.APIServer, lab.ControllerManager, lab.Scheduler} {
				fmt.Fprintf(w, "%s\t%d\n", name, s.Components[name])
			}
			for i := 1; i <= 200; i++ {
				if pid, ok := s.Nodes[i]; ok {
					fmt.Fprintf(w, "node%d\t%d\t%v\n", i, pid, l.Node(i).Addresses)
				}
			}
			return w.Flush()
		},
	}
}

func logs(dir *string) *cobra.Command {
	var tail int
	c := &cobra.Command{
		Use: "logs [WORD...]", Short: "print the logs whose file names contain all words; they outlive the lab",
		RunE: func(_ *cobra.Command, words []string) error {
			return lab.PrintLogs(os.Stdout, *dir, tail, words...)
		},
	}
	c.Flags().IntVar(&tail, "tail", 0, "only the last lines of each")
	return c
}

func image(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "image NAME BINARY", Short: "make a binary stand for an image from now on", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return l.SetImage(args[0], args[1])
		},
	}
}

func place(dir *string, use, name, where string, at func(*lab.Lab) *lab.Place) *cobra.Command {
	return &cobra.Command{
		Use: use + " [COMMAND...]", Short: "run a command, or a shell, " + where, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return run(cmd.Context(), at(l), name, args)
		},
	}
}

func node(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "node I [COMMAND...]", Short: "run a command, or a shell, on a node", DisableFlagParsing: true, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return run(cmd.Context(), l.Node(i), "node"+args[0], args[1:])
		},
	}
}

func pod(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "pod [NAMESPACE/]POD [COMMAND...]", Short: "run a command, or a shell, in a pod", DisableFlagParsing: true, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			namespace, name, ok := strings.Cut(args[0], "/")
			if !ok {
				namespace, name = "default", namespace
			}
			at, err := l.Pod(cmd.Context(), namespace, name, "")
			if err != nil {
				return err
			}
			return run(cmd.Context(), at, name, args[1:])
		},
	}
}

func kubectl(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "kubectl [ARGUMENTS...]", Short: "run kubectl as the administrator", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return run(cmd.Context(), l.Machine(), "", append([]string{l.Bin("kubectl")}, args...))
		},
	}
}

// run runs a command on this terminal; without one a shell.
func run(ctx context.Context, at *lab.Place, name string, args []string) error {
	if len(args) == 0 {
		args = []string{"bash", "--norc"}
	}
	cmd, err := at.Command(ctx, args[0], args[1:]...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, `PS1=[`+name+`] \w # `)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func onNode(dir *string, use, short string, do func(*lab.Lab, int) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " I", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			return do(l, i)
		},
	}
}

func proxy(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "proxy I [nftables|iptables|iptables-legacy]", Short: "run kube-proxy on a node, anew if it runs; without a mode end it", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			mode := ""
			if len(args) == 2 {
				mode = args[1]
			}
			return l.Proxy(i, mode)
		},
	}
}

func kubelet(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "kubelet stop|start|restart I", Short: "full level: kill or start the kubelet of a node; its pods run on", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := strconv.Atoi(args[1])
			if err != nil {
				return err
			}
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			switch args[0] {
			case "stop":
				return l.StopKubelet(i)
			case "start":
				return l.StartKubelet(i)
			case "restart":
				return errors.Join(l.StopKubelet(i), l.StartKubelet(i))
			}
			return fmt.Errorf("%q is not stop, start or restart", args[0])
		},
	}
}

func load(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "load ARCHIVE...", Short: "full level: load images into all nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			for _, archive := range args {
				if err := l.Load(archive); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func pack() *cobra.Command {
	return &cobra.Command{
		Use: "pack ARCHIVE IMAGE:TAG PROGRAM...", Short: "make an image archive of static programs, which are at its root", Args: cobra.MinimumNArgs(3),
		RunE: func(_ *cobra.Command, args []string) error { return lab.Pack(args[0], args[1], args[2:]...) },
	}
}

func onComponent(dir *string, use, short string, do func(*lab.Lab, string) error) *cobra.Command {
	names := map[string]string{"apiserver": lab.APIServer, "controller-manager": lab.ControllerManager, "scheduler": lab.Scheduler}
	return &cobra.Command{
		Use: use + " COMPONENT", Short: short + ": apiserver, controller-manager, scheduler, etcd", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			if name, ok := names[args[0]]; ok {
				args[0] = name
			}
			return do(l, args[0])
		},
	}
}

// boot is the first process of the lab and of each node.
func boot() *cobra.Command {
	var config pid1.Config
	c := &cobra.Command{
		Use: "init", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			config.Command = args
			code, err := pid1.Run(config)
			if err == nil {
				os.Exit(code)
			}
			return err
		},
	}
	c.Flags().StringVar(&config.Hostname, "hostname", "", "")
	c.Flags().StringArrayVar(&config.Binds, "bind", nil, "")
	c.Flags().BoolVar(&config.Cgroups, "cgroups", false, "")
	c.Flags().StringVar(&config.Group, "group", "", "")
	c.Flags().BoolVar(&config.Shared, "shared", false, "")
	return c
}

// runMachine is the process that runs the lab.
func runMachine() *cobra.Command {
	return &cobra.Command{
		Use: "machine DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := machine.ReadConfig(args[0])
			if err != nil {
				return err
			}
			m, err := machine.New(config)
			if err != nil {
				return err
			}
			return m.Run(klog.NewContext(cmd.Context(), klog.Background()))
		},
	}
}

// join becomes a command in a control group; with --own as the root that it sees.
func join() *cobra.Command {
	var own bool
	c := &cobra.Command{
		Use: "join GROUP COMMAND...", Hidden: true, Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error { return cgroup.Exec(args[0], own, args[1:]) },
	}
	c.Flags().BoolVar(&own, "own", false, "")
	c.Flags().SetInterspersed(false)
	return c
}

// removeGroups runs in a mount namespace of its own.
func removeGroups() *cobra.Command {
	return &cobra.Command{
		Use: "remove-groups GROUP", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return cgroup.MountAndRemove(args[0]) },
	}
}
