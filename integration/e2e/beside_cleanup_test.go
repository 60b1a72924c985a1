package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// cleanup: a node joins, with kube-proxy in a mode and Docker in both variants of
// iptables, and gets an agent, whose rules are where kube-proxy's are. It leaves, and they
// stand; with --cleanup, all is as it was before there was an agent, byte by byte.
func (b *beside) cleanup(t *testing.T, mode string) {
	t.Helper()
	b.joined++
	node := Nodes + b.joined
	name := fmt.Sprintf("node%d", node)
	if err := b.Boot(node); err != nil {
		t.Fatal(err)
	}
	b.kubectl(t, "cordon", name) // for all but DaemonSets
	if err := b.Proxy(node, mode); err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"nft", "legacy"} {
		for _, program := range families(variant) {
			b.feed(t, node, docker, program+"-restore", "--noflush")
		}
	}
	// It writes its rules again from time to time, and in any order.
	if err := b.Proxy(node, ""); err != nil {
		t.Fatal(err)
	}
	before := b.rules(t, node)

	b.label(t, node, agentLabel+"=yes")
	for _, addr := range b.Node(node).Addresses {
		for _, network := range []string{"tcp", "udp"} {
			b.serves(t, b.Outside(), network, join(addr, oursPort), "ours")
		}
	}
	b.label(t, node, agentLabel+"-")
	eventually(t, settle, func() error {
		pods, err := b.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods of ours are on %s", len(pods.Items), name)
		}
		return err
	})
	b.reach(t, "tcp", join(b.Node(node).Addresses[0], oursPort), "ours")
	shown, shownBy, sign := b.rules(t, node), "nft", "table inet portway {"
	if b.backend == "iptables" {
		shownBy, sign = "iptables-nft", ":PORTWAY-SERVICES "
	}
	if mode == lab.ProxyLegacy {
		shownBy = "iptables-legacy"
	}
	if !strings.Contains(shown[shownBy], sign) {
		t.Errorf("%s does not show %q:\n%s", shownBy, sign, shown[shownBy])
	}
	for command, text := range shown {
		if strings.Contains(text, "FORWARD") && !strings.Contains(text, "PORTWAY-FORWARD") {
			t.Errorf("%s: no chain of ours:\n%s", command, text)
		}
	}

	b.runCleanup(t, name)
	for command, text := range b.rules(t, node) {
		if text != before[command] {
			t.Errorf("%s is not what it was (lines that came +, that went -; none: another order):\n%s", command, changed(before[command], text))
		}
	}
	if _, err := b.report(t.Context(), node); !apierrors.IsNotFound(err) {
		t.Errorf("its NodeReport: %v, want none", err)
	}
}

// changed lists the lines of one text that the other has not.
func changed(before, after string) string {
	count := map[string]int{}
	for line := range strings.Lines(after) {
		count[line]++
	}
	for line := range strings.Lines(before) {
		count[line]--
	}
	var out strings.Builder
	for line, n := range count {
		if n != 0 {
			fmt.Fprintf(&out, "%+d %s", n, line)
		}
	}
	return out.String()
}

// moving is what changes with traffic and time.
var moving = regexp.MustCompile(`counter packets \d+ bytes \d+|\[\d+:\d+\]|(?m:^#.*\n)`)

// rules are all rules of a node, by the command that shows them.
func (b *beside) rules(t *testing.T, node int) map[string]string {
	t.Helper()
	all := map[string]string{"nft": moving.ReplaceAllString(b.on(t, node, "nft", "list", "ruleset"), "")}
	for _, variant := range []string{"nft", "legacy"} {
		for _, program := range families(variant) {
			all[program] = moving.ReplaceAllString(b.on(t, node, program+"-save"), "")
		}
	}
	return all
}

// runCleanup runs the agent's container with one flag more.
func (b *beside) runCleanup(t *testing.T, node string) {
	t.Helper()
	agents, err := b.Kube.AppsV1().DaemonSets(System).Get(t.Context(), "portway-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cleanup-" + node, Namespace: System}, Spec: agents.Spec.Template.Spec}
	pod.Spec.NodeName, pod.Spec.NodeSelector, pod.Spec.RestartPolicy = node, nil, corev1.RestartPolicyNever
	agent := &pod.Spec.Containers[0]
	agent.Args = append(agent.Args, "--cleanup")
	agent.ReadinessProbe, agent.LivenessProbe = nil, nil
	if _, err := b.Kube.CoreV1().Pods(System).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		now, err := b.Kube.CoreV1().Pods(System).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.Status.Phase == corev1.PodFailed {
			log, err := b.PodLog(System, pod.Name, agent.Name)
			t.Fatalf("--cleanup failed (%v):\n%s", err, log)
		}
		if now.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("--cleanup is %s", now.Status.Phase)
		}
		return nil
	})
}
