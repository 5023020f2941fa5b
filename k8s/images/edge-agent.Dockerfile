# docker build -f k8s/images/edge-agent.Dockerfile -t millwright/edge-agent:0.1.0 .
#
# The last stage takes two files from `build`, so a binary built elsewhere can stand in for that stage:
# docker build --build-context build=DIR ..., with DIR/out/edge-agent and DIR/out/ca-certificates.crt.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static glibc: the image then needs nothing but the program. Naming the target keeps the flag away from build scripts
# and macros, which can't be static.
RUN target="$(rustc --print host-tuple)" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --profile gateway --locked -p edge-agent --bin edge-agent --target "$target" \
    && mkdir /out \
    && cp "target/$target/gateway/edge-agent" /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch
LABEL org.opencontainers.image.title="Millwright edge agent" \
      org.opencontainers.image.description="Reads a gateway's sensors, keeps them in a durable spool and publishes them over MQTT until the archive has them." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/edge-agent /edge-agent
USER 65532:65532
ENTRYPOINT ["/edge-agent"]
