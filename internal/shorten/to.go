// Package shorten cuts texts to the lengths that the API takes.
package shorten

import "unicode/utf8"

// To cuts a text to a number of bytes, not within a character, and marks that.
func To(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
