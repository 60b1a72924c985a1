package controller

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/topology"
)

// wait is of a Gateway that some node has not programmed.
type wait struct {
	uid   types.UID
	since time.Time // when it was first seen to wait, by our clock
	told  bool
}

// tellBehind tells once of each Gateway that has not been programmed for longer
// than a node that joins may take. One that was Programmed gets the same Event
// with the write that takes that away. Nothing of this is stored: the next leader
// tells of those that still wait.
func (c *controller) tellBehind(now time.Time, s *topology.Statuses) {
	leads := c.writer.leads()
	waits := make(map[types.NamespacedName]*wait, len(c.waits))
	for key, status := range s.Gateways {
		desired := condition(status.Conditions, programmed)
		if desired == nil || desired.Status != metav1.ConditionFalse || desired.Reason != pending {
			continue
		}
		gateway := c.graph.Gateways[key].Source
		w := c.waits[key]
		if w == nil || w.uid != gateway.UID {
			old := condition(published{&c.snapshot}.gateway(key).Conditions, programmed)
			w = &wait{uid: gateway.UID, since: now, told: old != nil && old.Status == metav1.ConditionTrue}
		}
		waits[key] = w
		if leads && !w.told && now.Sub(w.since) > c.config.JoinGrace {
			w.told = true
			c.writer.emit(gateway, []event{{reasonNodeLagging, actionProgram, desired.Message}})
		}
	}
	c.waits = waits
}
