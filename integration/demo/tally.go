package main

import (
	"fmt"
	"math"

	"github.com/portway-dev/portway/internal/netns"
)

// counts shows who answered, in the order of the pods.
func counts(t netns.Tally) string {
	text := ""
	add := func(name string, n int) {
		if n == 0 {
			return
		}
		if text != "" {
			text += "  "
		}
		text += fmt.Sprintf("%s %d", name, n)
	}
	for _, pod := range pods {
		add(pod.Name, t.Answers[pod.Name])
	}
	add("refused", t.Refused)
	return text
}

// check returns an error when a share is further than six standard deviations
// from what it should be; "refused" stands for refused connections.
func check(t netns.Tally, shares map[string]float64) error {
	got := map[string]int{"refused": t.Refused, "silent": t.Silent, "failed": len(t.Failed)}
	for name, n := range t.Answers {
		got[name] = n
	}
	total := float64(t.Total())
	for name, n := range got {
		share := shares[name]
		if math.Abs(float64(n)-total*share) > 6*math.Sqrt(total*share*(1-share)) {
			return fmt.Errorf("%s, want %s to have %.0f %% of it", t, name, share*100)
		}
	}
	for name := range shares {
		if got[name] == 0 {
			return fmt.Errorf("%s, want %s to have a share", t, name)
		}
	}
	return nil
}
