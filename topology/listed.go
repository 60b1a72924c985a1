package topology

import "net/netip"

// ListedAddresses returns the addresses of all endpoints that the Forwarder was given,
// whatever their state and whether or not anybody uses their Service: a pod that is in
// none of them is gone.
func (f *Forwarder) ListedAddresses() map[netip.Addr]bool {
	listed := map[netip.Addr]bool{}
	for _, s := range f.services {
		for _, slice := range s.slices {
			for i := range slice.endpoints {
				listed[slice.addr(i)] = true
			}
		}
	}
	return listed
}
