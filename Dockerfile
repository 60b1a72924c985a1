# One image with portway-agent, portway-controller and portwayctl, and of others only iptables,
# which the agent runs where nf_tables are not to be had or a firewall is in iptables.
# `make image` builds it. Nothing of the target's architecture is run while it is built.
ARG GO_IMAGE=golang:1.26
ARG BASE_IMAGE=debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${BASE_IMAGE} AS tools
ARG TARGETARCH
COPY hack/image-tools.sh /
RUN /image-tools.sh "$TARGETARCH" /tools

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETARCH
ARG VERSION=unknown
ARG SOURCE_DATE_EPOCH=0
ARG GOPROXY
ENV PATH=/usr/local/go/bin:/usr/bin:/bin CGO_ENABLED=0 GOOS=linux GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
WORKDIR /src
COPY . .
COPY --from=tools /tools/usr/share/portway/packages /packages
RUN GOARCH="$TARGETARCH" go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/... \
 && go run ./hack/sbom -version "$VERSION" -time "$SOURCE_DATE_EPOCH" -packages /packages /out/* >/sbom.spdx.json

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title=portway \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=tools /tools /
COPY --from=build /out /
COPY --from=build /sbom.spdx.json /src/LICENSE /usr/share/portway/
ENV PATH=/usr/sbin
# The agent's pod says runAsUser 0: capabilities of a container are root's only.
USER 65532:65532
ENTRYPOINT ["/portway-agent"]
