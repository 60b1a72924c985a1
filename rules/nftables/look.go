package nftables

import "errors"

// Disturbed reports, by a look at what others may have done, whether the kernel may hold
// something else than the last Program made of it, so that another one is due: because
// our table is gone, or the rules of a chain that all listeners share are not as they
// should be. Those of the ladder and elements are for the next Program to notice, see
// verify. Where the last one failed nothing is known, and it says no.
//
// It takes one small request, and 0.2 ms where somebody else committed to the namespace. To
// be used by the goroutine that calls Program.
func (p *Programmer) Disturbed() bool {
	if !p.synced {
		return false
	}
	err := p.connect()
	if err == nil {
		err = (&pass{Programmer: p}).verify(false)
	}
	if err != nil && !errors.Is(err, errVanished) && !errors.Is(err, errAltered) {
		p.synced = false // and Program says what is wrong
	}
	return err != nil
}
