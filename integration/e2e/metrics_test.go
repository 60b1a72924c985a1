package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// metrics are samples by name and labels, as they are written in the text format.
type metrics map[string]float64

// scrape reads the metrics of a program from where the API server is.
func (c *Cluster) scrape(ctx context.Context, address string) (metrics, error) {
	transport := &http.Transport{DialContext: c.Machine().Dial, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", address, answer.Status, text)
	}
	return parseMetrics(string(text))
}

func parseMetrics(text string) (metrics, error) {
	m := metrics{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		m[line[:max(at, 0)]] = value
	}
	return m, nil
}

// sum adds up the samples of a name whose labels contain all the texts.
func (m metrics) sum(name string, labels ...string) (total float64) {
next:
	for sample, value := range m {
		of, rest, _ := strings.Cut(sample, "{")
		if of != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue next
			}
		}
		total += value
	}
	return total
}
