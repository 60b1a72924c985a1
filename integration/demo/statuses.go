package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// statusFile is where the agent writes the statuses.
const statusFile = "status.yaml"

// object is what the demo shows of an object's status.
type object struct {
	Kind     string
	Metadata struct{ Namespace, Name string }
	Status   struct {
		Conditions []condition
		Addresses  []struct{ Value string }
		Listeners  []struct {
			Name           string
			AttachedRoutes int `yaml:"attachedRoutes"`
			Conditions     []condition
		}
		Parents []struct {
			ParentRef struct {
				Name        string
				SectionName string `yaml:"sectionName"`
			} `yaml:"parentRef"`
			Conditions []condition
		}
	}
}

type condition struct{ Type, Status, Reason string }

// summary shows conditions by their type, those that are not True with status and
// reason.
func summary(conditions []condition) string {
	parts := make([]string, 0, len(conditions))
	for _, c := range conditions {
		if c.Status == "True" {
			parts = append(parts, c.Type)
		} else {
			parts = append(parts, fmt.Sprintf("%s=%s (%s)", c.Type, c.Status, c.Reason))
		}
	}
	return strings.Join(parts, ", ")
}

func (d *demo) statuses() error {
	d.out.heading("The statuses, as the API would carry them")
	var objects []object
	err := d.wait("the statuses say Programmed", func() (ok bool, err error) {
		objects, err = readStatuses(filepath.Join(d.dir, statusFile))
		return programmed(objects), err
	})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, o := range objects {
		name := strings.TrimPrefix(o.Metadata.Namespace+"/"+o.Metadata.Name, "/")
		note := ""
		for _, address := range o.Status.Addresses {
			note += " " + address.Value
		}
		if len(o.Status.Conditions) > 0 {
			rows = append(rows, []string{o.Kind, name, strings.TrimSpace(note), summary(o.Status.Conditions)})
		}
		for _, l := range o.Status.Listeners {
			rows = append(rows, []string{"", "listener " + l.Name, fmt.Sprintf("%d route", l.AttachedRoutes), summary(l.Conditions)})
		}
		for _, p := range o.Status.Parents {
			rows = append(rows, []string{o.Kind, name, "on " + p.ParentRef.Name + "/" + p.ParentRef.SectionName, summary(p.Conditions)})
		}
	}
	d.out.columns(rows)
	d.out.aside("Shown: the conditions that are True. In full: kill -USR1 the agent, or --status-out FILE.")
	return nil
}

// programmed reports whether the Gateway and both of its listeners are, with one
// route each.
func programmed(objects []object) bool {
	found := 0
	for _, o := range objects {
		if o.Kind != "Gateway" || !isTrue(o.Status.Conditions, "Programmed") {
			continue
		}
		for _, l := range o.Status.Listeners {
			if l.AttachedRoutes == 1 && isTrue(l.Conditions, "Programmed") {
				found++
			}
		}
	}
	return found == 2
}

func isTrue(conditions []condition, name string) bool {
	for _, c := range conditions {
		if c.Type == name {
			return c.Status == "True"
		}
	}
	return false
}

func readStatuses(path string) ([]object, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var objects []object
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the statuses: %w", err)
		}
		objects = append(objects, o)
	}
}
