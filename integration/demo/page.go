package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// page is what the demo prints: numbered headings with indented text under them.
type page struct {
	w        io.Writer
	colour   bool
	headings int
}

func newPage(f *os.File) *page {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &page{w: f, colour: err == nil && os.Getenv("NO_COLOR") == ""}
}

const (
	bold  = "1"
	faint = "2"
	green = "32"
)

func (p *page) paint(code, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *page) title(text string) {
	fmt.Fprintln(p.w, p.paint(bold, text))
}

func (p *page) heading(format string, args ...any) {
	p.headings++
	fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, fmt.Sprintf("%d  ", p.headings)+fmt.Sprintf(format, args...)))
}

// say prints one line of text.
func (p *page) say(format string, args ...any) {
	fmt.Fprintln(p.w, strings.TrimRight("   "+fmt.Sprintf(format, args...), " "))
}

// aside prints one line of explanation.
func (p *page) aside(format string, args ...any) {
	fmt.Fprintf(p.w, "   %s\n", p.paint(faint, fmt.Sprintf(format, args...)))
}

// good prints one line that says that something is as it should be.
func (p *page) good(format string, args ...any) {
	fmt.Fprintf(p.w, "   %s %s\n", p.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// block prints many lines as they are.
func (p *page) block(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		p.say("%s", line)
	}
}

// columns prints rows aligned by column.
func (p *page) columns(rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "%-*s  ", widths[i], cell)
		}
		fmt.Fprintf(p.w, "   %s\n", strings.TrimRight(b.String(), " "))
	}
}
