# doclora on a CPU, with the embedded model. From the repository's top folder:
#   docker build -f docker/cpu.Dockerfile -t doclora:cpu .
FROM python:3.11-slim-bookworm AS build
# the server's user may not write beside the packages, so their byte code is made here
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1
RUN python -m venv /opt/doclora && pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY requirements/cpu.txt requirements/cpu.txt
# --no-deps: the lock is complete, and leaves out what vLLM lists and this product does not use
RUN uv pip install --python /opt/doclora --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu \
    && uv pip install --python /opt/doclora --no-deps -r requirements/cpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY adapters_store adapters_store
COPY generator generator
COPY server server
RUN uv pip install --python /opt/doclora --no-deps .

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008  # Debian keeps only the newest build of a package
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/doclora doclora
COPY --from=build /opt/doclora /opt/doclora
# the home folder is the one place that is written to: data, downloaded models, caches
USER 10001
WORKDIR /var/lib/doclora
VOLUME /var/lib/doclora
ENV PATH=/opt/doclora/bin:$PATH \
    HOME=/var/lib/doclora \
    DOCLORA_DATA_DIR=/var/lib/doclora/data \
    DOCLORA_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=180s --interval=15s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["doclora", "serve"]
