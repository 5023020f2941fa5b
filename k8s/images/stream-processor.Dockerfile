# docker build -f k8s/images/stream-processor.Dockerfile --build-arg GIT_COMMIT="$(git rev-parse HEAD)" \
#   -t millwright/stream-processor:0.1.0 .
#
# The last stage takes two files from `build`, so a binary built elsewhere can stand in for that stage:
# docker build --build-context build=DIR ..., with DIR/out/stream-processor and DIR/out/ca-certificates.crt.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
# Kept in every model that this image trains.
ARG GIT_COMMIT=""
COPY . .
# Static glibc: the image then needs nothing but the program. Naming the target keeps the flag away from build scripts
# and macros, which can't be static.
RUN target="$(rustc --print host-tuple)" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --release --locked -p stream-processor --no-default-features --bin stream-processor --target "$target" \
    && mkdir /out \
    && cp "target/$target/release/stream-processor" /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch
LABEL org.opencontainers.image.title="Millwright stream processor" \
      org.opencontainers.image.description="MQTT in; archive, predictions and alerts out." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/stream-processor /stream-processor
USER 65532:65532
ENTRYPOINT ["/stream-processor"]
