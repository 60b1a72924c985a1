// Command sbom prints what the container image is made of, as SPDX 2.3 JSON: the Go
// modules that the linker wrote into the binaries, and the Debian packages of a list.
// The same input gives the same bytes.
package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID       string `json:"SPDXID"`
	Name     string `json:"name"`
	Version  string `json:"versionInfo"`
	Download string `json:"downloadLocation"`
	Analyzed bool   `json:"filesAnalyzed"`
	Purpose  string `json:"primaryPackagePurpose,omitempty"`
	Refs     []ref  `json:"externalRefs,omitempty"`
}

type ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const imageID = "SPDXRef-image"

func main() {
	version := flag.String("version", "unknown", "version of the image")
	seconds := flag.Int64("time", 0, "time of creation, in seconds since 1970")
	packages := flag.String("packages", "", "file with name, version and architecture of Debian packages, by tabs")
	flag.Parse()
	if err := run(os.Stdout, *version, time.Unix(*seconds, 0), *packages, flag.Args()); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, version string, created time.Time, packages string, binaries []string) error {
	if len(binaries) == 0 {
		return errors.New("name the binaries")
	}
	found := map[string]spdxPackage{} // by locator
	for _, binary := range binaries {
		if err := addModules(found, binary, version); err != nil {
			return err
		}
	}
	if packages != "" {
		if err := addDebian(found, packages); err != nil {
			return err
		}
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(describe(version, created, found))
}

func describe(version string, created time.Time, found map[string]spdxPackage) document {
	doc := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "portway-" + version,
		Creation: creation{created.UTC().Format(time.RFC3339), []string{"Tool: portway-sbom"}},
		Packages: []spdxPackage{{
			ID: imageID, Name: "portway", Version: version, Download: "NOASSERTION", Purpose: "CONTAINER",
		}},
		Relationships: []relationship{{"SPDXRef-DOCUMENT", "DESCRIBES", imageID}},
	}
	sum := sha256.New()
	for i, locator := range slices.Sorted(maps.Keys(found)) {
		_, _ = fmt.Fprintln(sum, locator)
		p := found[locator]
		p.ID = fmt.Sprintf("SPDXRef-%d", i+1)
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relationship{imageID, "CONTAINS", p.ID})
	}
	doc.Namespace = "https://portway.dev/spdx/" + version + "/" + hex.EncodeToString(sum.Sum(nil)[:16])
	return doc
}

func addModules(found map[string]spdxPackage, binary, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read the modules of %s: %w", filepath.Base(binary), err)
	}
	add(found, "pkg:golang/std@"+strings.TrimPrefix(info.GoVersion, "go"), "std", info.GoVersion)
	add(found, "pkg:golang/"+info.Main.Path+"@"+version, info.Main.Path, version)
	for _, module := range info.Deps {
		module = cmp.Or(module.Replace, module)
		add(found, "pkg:golang/"+module.Path+"@"+module.Version, module.Path, module.Version)
	}
	return nil
}

func addDebian(found map[string]spdxPackage, list string) error {
	file, err := os.Open(list)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 3 {
			return fmt.Errorf("%s: %q is not name, version and architecture", list, lines.Text())
		}
		name, version, arch := fields[0], fields[1], fields[2]
		locator := strings.ReplaceAll(version, "+", "%2B")
		add(found, "pkg:deb/debian/"+name+"@"+locator+"?arch="+arch, name, version)
	}
	return lines.Err()
}

func add(found map[string]spdxPackage, locator, name, version string) {
	found[locator] = spdxPackage{
		Name: name, Version: version, Download: "NOASSERTION", Purpose: "LIBRARY",
		Refs: []ref{{"PACKAGE-MANAGER", "purl", locator}},
	}
}
