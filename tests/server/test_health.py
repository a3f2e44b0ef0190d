"""Health, readiness, figures, and what the API says about itself."""

import re
import time

import httpx
import pytest

from tests.server.running import Running, document

pytestmark = pytest.mark.engine


def test_health_and_readiness_tell_each_part(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    generators = {"document": True, "text": True}
    ready = {"ready": True, "engine": True, "generators": generators, "store": True}
    assert http.get("/ready").json() == ready


def test_the_api_answers_while_the_generator_is_at_work(
    http: httpx.Client, server: Running
) -> None:
    """Generation is another process's business: this one is free, whatever that one does."""
    with server.generator_stopped():
        where = http.post("/v1/adapters", json={"text": document(), "wait": 0}).headers["location"]
        began = time.monotonic()
        for path in ("/health", "/ready", where, "/v1/adapters", "/v1/models", "/metrics"):
            assert http.get(path).status_code == 200
        assert time.monotonic() - began < 60, "answered only after the generation"
        assert http.get(where).json()["status"] in {"queued", "generating"}


def test_figures_tell_stages_states_tiers_and_loads(http: httpx.Client) -> None:
    adapter = http.post("/v1/adapters", json={"text": document(), "wait": 120}).json()
    before = figures(http)
    http.post(f"/v1/adapters/{adapter['id']}/evict")
    http.post(f"/v1/adapters/{adapter['id']}/load")
    after = figures(http)
    for counter in ("doclora_adapter_loads_total", "doclora_adapter_evictions_total"):
        assert after[counter] == before[counter] + 1
    for stage in ("extract", "generate", "store", "register"):
        assert after[f'doclora_stage_seconds_count{{stage="{stage}"}}'] >= 1
    listed = http.get("/v1/adapters", params={"status": "ready", "limit": 100}).json()
    if not listed["has_more"]:
        ready = len(listed["data"])
        assert after['doclora_adapters{status="ready"}'] == ready
        tiers = [after[f'doclora_ready_adapters{{tier="{tier}"}}'] for tier in ("engine", "disk")]
        assert sum(tiers) == ready
        assert tiers[0] == sum(adapter["resident"] for adapter in listed["data"])
    assert any(name.startswith("vllm:") for name in after), "the engine's own figures"
    assert after["doclora_adapter_load_failures_total"] == 0


def figures(http: httpx.Client) -> dict[str, float]:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = re.findall(r"^([^#\s]\S*) (\S+)$", answer.text, re.M)
    return {name: float(value) for name, value in found}


def test_the_openapi_document_describes_our_routes_and_their_errors(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["info"]["title"] == "doclora"
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    create = operations["POST /v1/adapters"]
    assert create["requestBody"]["content"].keys() == {"multipart/form-data", "application/json"}
    for name, operation in operations.items():
        assert "422" not in operation["responses"], name
        if "/v1/adapters" in name or "/v1/models" in name:
            assert operation["summary"], name
            assert operation["description"], name
            errors = [code for code in operation["responses"] if int(code) >= 400]
            assert errors, name
            for code in errors:
                content = operation["responses"][code]["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}, name
    for schema in ("AdapterObject", "ErrorBody", "ModelObject"):
        assert "example" in document["components"]["schemas"][schema]
    timings = document["components"]["schemas"]["TimingsObject"]["properties"]
    assert timings.keys() == {"extract", "generate", "store", "register"}
    assert http.get("/docs").status_code == 200


def test_there_are_no_routes_but_those_that_were_meant(http: httpx.Client) -> None:
    assert http.get("/openapi.json").json()["paths"].keys() == {
        "/detokenize",
        "/health",
        "/metrics",
        "/ready",
        "/tokenize",
        "/v1/adapters",
        "/v1/adapters/{adapter_id}",
        "/v1/adapters/{adapter_id}/cancel",
        "/v1/adapters/{adapter_id}/events",
        "/v1/adapters/{adapter_id}/evict",
        "/v1/adapters/{adapter_id}/load",
        "/v1/adapters/{adapter_id}/weights",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/responses",
    }
    for path in ("/invocations", "/load", "/version", "/v1/load_lora_adapter", "/server_info"):
        assert http.get(path).status_code == 404
        assert http.post(path, json={}).status_code == 404
