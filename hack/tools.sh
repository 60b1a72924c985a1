# Sourced: builds the tools pinned in hack/tools/go.mod; $tools is where they are.
tools=$PWD/bin/tools
mkdir -p "$tools"
(cd hack/tools && go build -o "$tools/" tool)
