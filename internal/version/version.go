// Package version holds the version the binaries were built as.
package version

// Version is set by the linker (Makefile); "unknown" for a plain go build.
var Version = "unknown"
