package agent

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"k8s.io/utils/clock"
)

const (
	// gcPercent lets garbage grow to half of what is in use before it is collected,
	// where Go's default is all of it: an agent shares its node's memory with
	// everybody, and has hardly anything to collect once it is loaded.
	gcPercent = 50
	// trimPeriod and trimGain: memory that a load or a large change left behind goes
	// back to the system within this time, if it is worth a collection.
	trimPeriod = 30 * time.Second
	trimGain   = 16 << 20
)

// LimitMemory keeps this process small until ctx ends. The environment variable
// GOGC overrides how eagerly garbage is collected.
func LimitMemory(ctx context.Context) { limitMemory(ctx, clock.RealClock{}, debug.FreeOSMemory) }

func limitMemory(ctx context.Context, c clock.WithTicker, release func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ticker := c.NewTicker(trimPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			if reclaimable() > trimGain {
				release()
			}
		}
	}
}

// reclaimable is how much of the heap is garbage, or free but not yet given back,
// in bytes.
func reclaimable() uint64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, // in use or garbage
		{Name: "/memory/classes/heap/free:bytes"},    // free, not given back
		{Name: "/gc/heap/live:bytes"},                // in use when last collected
	}
	metrics.Read(samples)
	used, free, live := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()
	if used+free < live {
		return 0
	}
	return used + free - live
}
