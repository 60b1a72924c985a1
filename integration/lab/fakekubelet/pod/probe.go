package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

// eager is how often a probe is repeated that has not succeeded yet, so that a
// pod is Ready as soon as it can be. Upstream's kubelet waits a whole period.
const eager = 200 * time.Millisecond

// probe starts the probes of a container that has just started. It needs mu.
func (c *container) probe(ctx context.Context) {
	addr := c.worker.addrs[0]
	process := c.process
	run := func(p *corev1.Probe, wait func() bool, result func(ok bool)) {
		if p != nil {
			go c.repeat(ctx, p, addr, process, wait, result)
		}
	}
	passed := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.passed
	}
	run(c.spec.StartupProbe, func() bool { return true }, func(ok bool) {
		if !ok {
			c.restartUnhealthy(ctx, "startup")
			return
		}
		c.mu.Lock()
		c.passed = true
		c.ready = c.spec.ReadinessProbe == nil
		c.mu.Unlock()
		c.worker.wakeUp()
	})
	run(c.spec.ReadinessProbe, passed, func(ok bool) {
		c.mu.Lock()
		changed := c.process == process && c.ready != ok
		if changed {
			c.ready = ok
		}
		c.mu.Unlock()
		if changed {
			klog.FromContext(ctx).V(2).Info("Readiness changed", "container", c.spec.Name, "ready", ok)
			c.worker.wakeUp()
		}
	})
	run(c.spec.LivenessProbe, passed, func(ok bool) {
		if !ok {
			c.restartUnhealthy(ctx, "liveness")
		}
	})
}

func (c *container) restartUnhealthy(ctx context.Context, probe string) {
	klog.FromContext(ctx).Info("Container is unhealthy, ending it", "container", c.spec.Name, "probe", probe)
	grace := 30 * time.Second
	if s := c.worker.newest().Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	if process == nil {
		return
	}
	c.terminate(context.WithoutCancel(ctx), grace)
	select {
	case <-process.Done():
	case <-time.After(grace):
		c.kill(ctx)
	}
}

// repeat runs one probe until the context ends and tells the result when one of
// its thresholds is reached.
func (c *container) repeat(ctx context.Context, p *corev1.Probe, addr netip.Addr, process *sandbox.Process, wait func() bool, result func(ok bool)) {
	seconds := func(n int32) time.Duration { return time.Duration(n) * time.Second }
	delay := seconds(p.InitialDelaySeconds)
	succeeded, failed := int32(0), int32(0)
	ever := false
	var failing time.Time // since when
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		if !wait() {
			delay = eager
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, max(seconds(p.TimeoutSeconds), time.Second))
		err := c.attempt(attempt, p, addr, process)
		cancel()
		if ctx.Err() != nil {
			return
		}
		delay = max(seconds(p.PeriodSeconds), time.Second)
		switch {
		case err == nil:
			succeeded, failed, failing = succeeded+1, 0, time.Time{}
			if succeeded >= p.SuccessThreshold {
				ever = true
				result(true)
			}
		case !ever:
			// Eager, but failed only when upstream's would have failed.
			succeeded = 0
			if failing.IsZero() {
				failing = time.Now()
			}
			if time.Since(failing) >= delay*time.Duration(p.FailureThreshold) {
				result(false)
			}
			delay = min(delay, eager)
		default:
			klog.FromContext(ctx).V(4).Info("Probe failed", "container", c.spec.Name, "err", err)
			if succeeded, failed = 0, failed+1; failed >= p.FailureThreshold {
				result(false)
			}
		}
		if ever && p == c.spec.StartupProbe {
			return
		}
	}
}

func (c *container) attempt(ctx context.Context, p *corev1.Probe, addr netip.Addr, process *sandbox.Process) error {
	switch {
	case p.TCPSocket != nil:
		target, err := c.target(p.TCPSocket.Host, addr, p.TCPSocket.Port)
		if err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
		if err != nil {
			return err
		}
		return conn.Close()
	case p.HTTPGet != nil:
		return c.get(ctx, p.HTTPGet, addr)
	case p.Exec != nil:
		return execute(ctx, process, p.Exec.Command)
	default:
		return errors.New("this kind of probe does not exist in the lab")
	}
}

func (c *container) get(ctx context.Context, action *corev1.HTTPGetAction, addr netip.Addr) error {
	target, err := c.target(action.Host, addr, action.Port)
	if err != nil {
		return err
	}
	scheme := "http"
	if action.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+target+action.Path, http.NoBody)
	if err != nil {
		return err
	}
	for _, header := range action.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // as upstream's probes
	}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func (c *container) target(host string, addr netip.Addr, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = addr.String()
	}
	if port.Type == intstr.Int {
		return net.JoinHostPort(host, strconv.Itoa(port.IntValue())), nil
	}
	for _, p := range c.spec.Ports {
		if p.Name == port.StrVal {
			return net.JoinHostPort(host, strconv.Itoa(int(p.ContainerPort))), nil
		}
	}
	return "", fmt.Errorf("no port %q", port.StrVal)
}
