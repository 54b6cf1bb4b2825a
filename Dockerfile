#   docker build -t portcullis .
#   docker run --rm -p 8080:8080 -p 8443:8443 portcullis
#   docker run --rm -v ./my.yaml:/etc/portcullis/portcullis.yaml:ro portcullis check --config /etc/portcullis/portcullis.yaml

FROM rust:1.95-bookworm AS build
# cmake is for zlib-ng; OpenSSL is built from source and linked statically. Line tables, three quarters of the binary,
# stay behind; the names of functions do not.
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin portcullis \
 && strip --strip-debug -o /tmp/portcullis target/release/portcullis \
 && install -D -m 755 /tmp/portcullis /image/usr/bin/portcullis \
 && install -D -m 644 conf/container.yaml /image/etc/portcullis/portcullis.yaml \
 && install -d -m 700 /image/var/lib/portcullis

# glibc, CA certificates and nothing else: no shell, no package manager. The user is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /image/usr/ /usr/
COPY --from=build /image/etc/portcullis/ /etc/portcullis/
COPY --from=build --chown=65532:65532 /image/var/lib/portcullis/ /var/lib/portcullis/
USER 65532:65532
VOLUME /var/lib/portcullis
EXPOSE 8080 8443
# SIGTERM drains: give it as long as server.drain (docker stop --time 100).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/portcullis"]
CMD ["run", "--config", "/etc/portcullis/portcullis.yaml"]
