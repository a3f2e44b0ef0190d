# doclora beside a CUDA GPU, on vLLM's own image. From the repository's top folder:
#   docker build -f docker/cuda.Dockerfile -t doclora:cuda .
FROM vllm/vllm-openai:v0.32.0
WORKDIR /src
COPY requirements/gpu-added.txt requirements/gpu-added.txt
# --no-deps: the image has vLLM, torch and all that they need; only what doclora adds is installed
RUN uv pip install --system --no-cache --compile-bytecode --no-deps -r requirements/gpu-added.txt
COPY pyproject.toml README.md LICENSE ./
COPY adapters_store adapters_store
COPY generator generator
COPY server server
# --offline: fails if the image lacks anything, or has it too old
RUN uv pip install --system --no-cache --compile-bytecode --no-deps . \
    && uv pip install --system --no-cache --offline doclora \
    && useradd --uid 10001 --create-home --home-dir /var/lib/doclora doclora
# the home folder is the one place that is written to: data, downloaded models, caches
USER 10001
WORKDIR /var/lib/doclora
VOLUME /var/lib/doclora
ENV HOME=/var/lib/doclora \
    DOCLORA_DATA_DIR=/var/lib/doclora/data \
    DOCLORA_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=300s --interval=15s --timeout=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["doclora", "serve"]
