package main

import (
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

// renderNFT returns the text that nft would list for a State; unless it is to be
// full, without the chains that nothing leads to.
func renderNFT(state *rules.State, full bool) (string, error) {
	if full {
		return nftables.Render(state, nftables.DefaultConfig())
	}
	return nftables.RenderBrief(state, nftables.DefaultConfig())
}
