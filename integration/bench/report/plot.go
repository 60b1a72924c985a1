package main

import (
	"bytes"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// plotted is a chart as SVG.
type plotted struct {
	chart chart
	svg   []byte
}

const (
	width     = 760 * vg.Length(0.75) // pixels in points
	height    = 400 * vg.Length(0.75)
	barHeight = 34 * vg.Length(0.75)
)

// colours, of Okabe and Ito: they differ for those who see fewer as well. Ours is the first.
var colours = []color.RGBA{
	{0, 114, 178, 255},
	{110, 110, 110, 255},
	{0, 0, 0, 255},
	{0, 158, 115, 255},
	{213, 94, 0, 255},
	{230, 159, 0, 255},
	{204, 121, 167, 255},
	{86, 180, 233, 255},
}

// plots draws every chart for which there are figures.
func (r results) plots() ([]plotted, error) {
	var out []plotted
	if r.Bench == nil {
		return nil, nil
	}
	all := r.Bench.Figures
	for _, c := range charts {
		series := c.series(all)
		if len(series) == 0 {
			continue
		}
		draw := c.lines
		if c.bars {
			draw = c.beams
		}
		svg, err := draw(series)
		if err != nil {
			return nil, err
		}
		out = append(out, plotted{c, svg})
	}
	return out, nil
}

// paper is an empty plot: white of its own, as pages are light or dark.
func (c chart) paper() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text = c.title
	p.Title.Padding = 4
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	p.Title.TextStyle.Font = sans(12)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font = sans(9)
		axis.Tick.Label.Font = sans(9)
		axis.Padding = 4
	}
	p.Legend.TextStyle.Font = sans(9)
	return p
}

// ticks are written as values of tables are.
type ticks struct {
	plot.Ticker
	unit string
}

func (t ticks) Ticks(low, high float64) []plot.Tick {
	all := t.Ticker.Ticks(low, high)
	for i := range all {
		if all[i].Label != "" {
			all[i].Label = plain(all[i].Value, t.unit)
		}
	}
	return all
}

// decades are the ticks of a logarithmic axis, with words at 1, 2 and 5 of each if they are few.
type decades struct{}

func (decades) Ticks(low, high float64) []plot.Tick {
	var out []plot.Tick
	const few = 500
	for exponent := int(math.Floor(math.Log10(low))); exponent <= int(math.Ceil(math.Log10(high))); exponent++ {
		for _, digit := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9} {
			value := float64(digit) * math.Pow10(exponent)
			if value < low || value > high {
				continue
			}
			tick := plot.Tick{Value: value}
			if digit == 1 || high < low*few && (digit == 2 || digit == 5) {
				tick.Label = "yes"
			}
			out = append(out, tick)
		}
	}
	return out
}

// spreads are medians with what lies between the smallest and the largest value.
type spreads struct {
	plotter.XYs
	plotter.YErrors
	plotter.XErrors
}

// lines draws one line a series over the sizes.
func (c chart) lines(all []series) ([]byte, error) {
	p := c.paper()
	unit := scaleOf(all[0].points[0].of.Unit).word
	p.X.Label.Text = "listeners × endpoints of each"
	if all[0].points[0].of.Endpoints == 0 {
		p.X.Label.Text = "listeners"
	}
	names := labels(all)
	short := make([]string, 0, len(names))
	for _, name := range names {
		short = append(short, strings.NewReplacer(" 000", "k", " ", "").Replace(name))
	}
	p.NominalX(short...)
	p.X.Tick.Label.Font.Size = 8
	p.Y.Min = 0
	p.Y.Tick.Marker = ticks{plot.DefaultTicks{}, unit}
	if c.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, ticks{decades{}, unit}
		p.Y.Min = math.Inf(1)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{225}
	p.Add(grid)
	legend := plot.NewLegend()
	legend.Top, legend.Left, legend.Padding, legend.TextStyle = true, true, 3, p.Legend.TextStyle
	drawn := make([]plot.Plotter, 0, len(all))
	for i, s := range all {
		var values spreads
		for _, pt := range s.points {
			// A little beside one another, so that spreads can be told apart.
			x := float64(slices.Index(names, size(pt.of))) + 0.06*(float64(i)-float64(len(all)-1)/2)
			values.XYs = append(values.XYs, plotter.XY{X: x, Y: pt.median})
			values.YErrors = append(values.YErrors, struct{ Low, High float64 }{pt.median - pt.min, pt.max - pt.median})
		}
		line, points, err := plotter.NewLinePoints(values)
		if err != nil {
			return nil, err
		}
		bars, err := plotter.NewYErrorBars(values)
		if err != nil {
			return nil, err
		}
		colour := colours[i%len(colours)]
		if at := slices.Index(subjects, s.name); at >= 0 {
			colour = colours[at%len(colours)]
		}
		line.Color, points.Color, bars.Color = colour, colour, colour
		line.Width, points.Radius, bars.Width, bars.CapWidth = 1, 2.5, 0.75, 4
		points.Shape = draw.CircleGlyph{}
		if s.ours {
			line.Width, points.Radius = 2, 3.5
		}
		legend.Add(s.name, line, points)
		drawn = append(drawn, together{line, points, bars})
	}
	slices.Reverse(drawn) // the first above the others
	p.Add(drawn...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	return svg(p, height, &legend)
}

// together are drawn as one.
type together []interface {
	plot.Plotter
	plot.DataRanger
}

func (t together) Plot(c draw.Canvas, p *plot.Plot) {
	for _, one := range t {
		one.Plot(c, p)
	}
}

func (t together) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, ymin, xmax, ymax = math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
	for _, one := range t {
		x0, x1, y0, y1 := one.DataRange()
		xmin, xmax, ymin, ymax = min(xmin, x0), max(xmax, x1), min(ymin, y0), max(ymax, y1)
	}
	return xmin, xmax, ymin, ymax
}

// beams draws one horizontal bar a subject, the first on top.
func (c chart) beams(all []series) ([]byte, error) {
	p := c.paper()
	first := all[0].points
	unit := scaleOf(first[0].of.Unit).word
	var names []string
	var values spreads
	for i, pt := range slices.Backward(first) {
		y := float64(len(first) - 1 - i)
		names = append(names, pt.of.Subject)
		values.XYs = append(values.XYs, plotter.XY{X: pt.median, Y: y})
		values.XErrors = append(values.XErrors, struct{ Low, High float64 }{pt.median - pt.min, pt.max - pt.median})
		bar, err := plotter.NewBarChart(plotter.Values{pt.median}, barHeight*0.6)
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width, bar.Color = true, y, 0, color.Gray{165}
		if pt.of.Subject == figure.Ours {
			bar.Color = colours[0]
		}
		p.Add(bar)
	}
	spread, err := plotter.NewXErrorBars(values)
	if err != nil {
		return nil, err
	}
	spread.CapWidth = 5
	p.Add(spread)
	p.NominalY(names...)
	p.X.Min = 0
	p.X.Tick.Marker = ticks{plot.DefaultTicks{}, unit}
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	return svg(p, barHeight*vg.Length(len(names))+60, nil)
}

// svg draws the plot, and its legend to the right of it.
func svg(p *plot.Plot, height vg.Length, legend *plot.Legend) ([]byte, error) {
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Path())
	area := draw.Crop(whole, 6, -14, 6, -6)
	if legend != nil {
		beside := legend.Rectangle(area).Size().X
		legend.Draw(draw.Crop(area, area.Size().X-beside, 0, 0, -20))
		area = draw.Crop(area, 0, -(beside + 12), 0, 0)
	}
	p.Draw(area)
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// Who has no Liberation has one of the same widths.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), nil
}
