# Sourced: builds the tools pinned in hack/tools/go.mod, or those that $wanted names;
# $tools is where they are.
tools=$PWD/bin/tools
mkdir -p "$tools"
# shellcheck disable=SC2086 # a list of packages
(cd hack/tools && go build -o "$tools/" ${wanted:-tool})
