# The proxy with its SQLite cache in the volume /data, run by a user without rights:
#     docker build --tag llm-cache-proxy .
#     docker run --publish 127.0.0.1:8484:8484 --volume llm-cache:/data llm-cache-proxy

FROM python:3.13-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/llm-cache-proxy
COPY requirements.lock ./
RUN /opt/llm-cache-proxy/bin/pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY cache_backends cache_backends
COPY proxy proxy
# What installed the package does not go along.
RUN /opt/llm-cache-proxy/bin/pip install --no-deps --no-build-isolation . \
    && /opt/llm-cache-proxy/bin/pip uninstall --yes setuptools pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="llm-cache-proxy" \
      org.opencontainers.image.description="An HTTP caching proxy in front of LLM provider APIs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/llm-cache-proxy /opt/llm-cache-proxy
# A number, so that Kubernetes can tell that it is not root.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
USER 10001:10001
# HOME and the working directory are the volume: nothing else need be writable.
WORKDIR /data
VOLUME /data
# Every address of the container, which is reached through published ports only. With provider keys
# injected by the proxy it refuses that unless client tokens are configured.
ENV PATH=/opt/llm-cache-proxy/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    LLM_CACHE_PROXY_SERVER__HOST=0.0.0.0 \
    LLM_CACHE_PROXY_SERVER__PORT=8484 \
    LLM_CACHE_PROXY_CACHE__URL=sqlite:////data/cache.db
EXPOSE 8484
STOPSIGNAL SIGTERM
# Not urllib: it would ask through an HTTP_PROXY that is meant for the providers.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-Ic", "import http.client, os; env = os.environ.get; \
        port = env('LLM_CACHE_PROXY_OPS__PORT') or env('LLM_CACHE_PROXY_SERVER__PORT'); \
        proxy = http.client.HTTPConnection('127.0.0.1', int(port), timeout=4); \
        proxy.request('GET', '/healthz'); raise SystemExit(proxy.getresponse().status != 200)"]
ENTRYPOINT ["llm-cache-proxy"]
CMD ["serve"]
