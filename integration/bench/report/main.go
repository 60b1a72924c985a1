package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

func main() {
	commands := map[string]func([]string) error{"begin": begin, "collect": collect, "render": render, "fit": fit, "explained": explained}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: report begin|collect|render|fit|explained [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "report %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// begin prints the environment.
func begin([]string) error {
	e, err := here()
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(e)
}

// collect puts a run into the results.
func collect(args []string) error {
	flags := flag.NewFlagSet("collect", flag.ExitOnError)
	name := flags.String("results", "", "results.json, which is changed")
	as := flags.String("as", "bench", "the run that is replaced: bench or cluster")
	begun := flags.String("begun", "", "what begin printed")
	lines := flags.String("figures", "", "figures, one line of JSON each")
	output := flags.String("benchmarks", "", "output of go test -bench")
	var next run
	flags.Func("failed", "a part that failed; may be repeated", func(part string) error {
		next.Failed = append(next.Failed, part)
		return nil
	})
	flags.Func("skipped", "a part that was not asked for; may be repeated", func(part string) error {
		next.Skipped = append(next.Skipped, part)
		return nil
	})
	flags.Func("part", "NAME=SECONDS: how long a part took; may be repeated", func(value string) error {
		name, took, _ := strings.Cut(value, "=")
		seconds, err := strconv.ParseFloat(took, 64)
		next.Parts = append(next.Parts, part{name, seconds})
		return err
	})
	kubeProxy := flags.String("kube-proxy", "", "version of kube-proxy that was measured")
	flags.Func("left-out", "a sentence: what was not measured, and why; may be repeated", func(sentence string) error {
		next.LeftOut = append(next.LeftOut, sentence)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	results, err := read(*name)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(*begun)
	if err != nil {
		return err
	}
	var before beginning
	if err := json.Unmarshal(text, &before); err != nil {
		return fmt.Errorf("%s: %w", *begun, err)
	}
	if next.Environment, err = before.end(); err != nil {
		return err
	}
	if *kubeProxy != "" {
		next.Environment.KubeProxy = *kubeProxy
	}
	if next.Figures, err = figure.Read(*lines); err != nil {
		return err
	}
	if next.Benchmarks, err = readBenchmarks(*output); err != nil {
		return err
	}
	switch *as {
	case "bench":
		results.Bench = &next
	case "cluster":
		results.Cluster = &next
	default:
		return fmt.Errorf("-as %q is neither bench nor cluster", *as)
	}
	return results.write(*name)
}

// render writes the page and its plots, and removes plots that there are no figures for.
func render(args []string) error {
	flags := flag.NewFlagSet("render", flag.ExitOnError)
	name := flags.String("results", "", "results.json")
	to := flags.String("to", "", "directory of README.md and the plots")
	if err := flags.Parse(args); err != nil {
		return err
	}
	results, err := read(*name)
	if err != nil {
		return err
	}
	plots, err := results.plots()
	if err != nil {
		return err
	}
	var page strings.Builder
	results.readme(&page, plots)
	text := strings.TrimRight(page.String(), "\n") + "\n"
	if err := os.WriteFile(filepath.Join(*to, "README.md"), []byte(text), 0o644); err != nil {
		return err
	}
	for _, p := range plots {
		if err := os.WriteFile(filepath.Join(*to, p.chart.file), p.svg, 0o644); err != nil {
			return err
		}
	}
	there, err := filepath.Glob(filepath.Join(*to, "*.svg"))
	if err != nil {
		return err
	}
	for _, file := range there {
		if slices.ContainsFunc(plots, func(p plotted) bool { return p.chart.file == filepath.Base(file) }) {
			continue
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// fit fails if a run is not one to publish.
func fit(args []string) error {
	flags := flag.NewFlagSet("fit", flag.ExitOnError)
	name := flags.String("results", "", "results.json")
	as := flags.String("as", "bench", "the run: bench or cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	results, err := read(*name)
	if err != nil {
		return err
	}
	run := map[string]*run{"bench": results.Bench, "cluster": results.Cluster}[*as]
	if run == nil {
		return fmt.Errorf("there is no run %q in %s", *as, *name)
	}
	if reasons := run.unfit(); len(reasons) > 0 {
		return fmt.Errorf("the run is not one to publish: %s", strings.Join(reasons, "; "))
	}
	return nil
}

// explained fails if a run is not one to publish, if an aim was missed or not measured and
// the page that people write does not say why, and if that page explains what is no longer so.
func explained(args []string) error {
	flags := flag.NewFlagSet("explained", flag.ExitOnError)
	name := flags.String("results", "", "results.json; "+explanations+" is beside it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	results, err := read(*name)
	if err != nil {
		return err
	}
	page := filepath.Join(filepath.Dir(*name), explanations)
	owed, err := results.unexplained(page)
	if err != nil {
		return err
	}
	for i, problem := range owed {
		owed[i] = page + ": " + problem
	}
	for _, run := range results.runs() {
		for _, reason := range run.unfit() {
			owed = append(owed, fmt.Sprintf("the run of %s (%s) is not one to publish: %s", run.Environment.Date, run.Environment.Commit, reason))
		}
	}
	if len(owed) == 0 {
		return nil
	}
	return errors.New(strings.Join(owed, "\n\t"))
}
