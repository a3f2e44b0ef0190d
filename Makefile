# Every target sets itself up first: Python 3.11 or newer is all it needs.
.DEFAULT_GOAL := help
# without byte code kept, every start of the engine compiles 20 s of source in each of its processes
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup serve test lint bench bench-generator lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'ARGS="..." hands options on, e.g. make serve ARGS="--port 9000", make test ARGS="-k chunks"'

setup: ## make .venv from the lock (PYTHON=... names another Python)
	@scripts/setup

serve: setup ## run the server on the CPU, with the embedded model
	.venv/bin/doclora serve $(ARGS)

test: setup ## run all tests, those with the real engine too
	.venv/bin/python -m pytest $(ARGS)

lint: setup ## check style, types and the Dockerfiles
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/hadolint docker/*.Dockerfile
	.venv/bin/python scripts/check-docker

bench: setup ## run all benchmarks, which print ratios
	@for file in tests/benchmarks/bench_*.py; do \
	  echo "== $$file"; .venv/bin/python -m "tests.benchmarks.$$(basename "$$file" .py)" || exit 1; \
	done

bench-generator: setup ## time and memory of generators at the published shapes, in full on a GPU
	.venv/bin/python -m tests.benchmarks.bench_generator $(ARGS)

lock: setup ## rewrite requirements/*.txt (ARGS="--upgrade" for newer versions)
	.venv/bin/python scripts/lock $(ARGS)
