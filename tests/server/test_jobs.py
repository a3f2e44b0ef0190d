"""Jobs outlive the deaths of the generator and of the server itself."""

import os
import signal
from functools import partial

import httpx
import pytest

from tests.server.running import Running, document, eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_a_generator_killed_at_work_is_replaced_and_the_job_done(
    http: httpx.Client, server: Running
) -> None:
    with server.generator_stopped() as generator:
        where = http.post("/v1/adapters", json={"text": document(), "wait": 0}).headers["location"]
        eventually(lambda: http.get(where).json()["status"] == "generating")
        os.kill(generator, signal.SIGKILL)
    eventually(lambda: http.get("/ready").json()["generators"]["document"] is False)
    answer = http.get("/ready")
    assert answer.status_code == 503
    parts = answer.json()
    generators = parts.pop("generators")
    assert parts == {"ready": False, "engine": True, "store": True}
    assert [kind for kind, up in generators.items() if not up] == ["document"]
    assert http.get("/health").status_code == 200
    eventually(lambda: http.get(where).json()["status"] == "ready", 240)
    assert server.generator_pid() not in {None, generator}
    assert http.get("/ready").status_code == 200


def test_a_job_that_sees_two_generators_die_fails_and_says_so(
    http: httpx.Client, server: Running
) -> None:
    text = document()
    with server.generator_stopped() as first:
        where = http.post("/v1/adapters", json={"text": text, "wait": 0}).headers["location"]
        eventually(lambda: http.get(where).json()["status"] == "generating")
        os.kill(first, signal.SIGKILL)
    # the first may still be on its way out
    second = eventually(lambda: {server.generator_pid()} - {None, first}).pop()
    retried = f"{where.rpartition('/')[2]}: the generator process was killed"
    eventually(lambda: retried in server.log.read_text())
    eventually(lambda: http.get(where).json()["status"] == "generating")
    os.kill(second, signal.SIGKILL)  # while it loads, the job waits for it
    adapter = eventually(lambda: _failed(http, where), 240)
    assert adapter["error"]["code"] == "generator_died"
    assert adapter["error"]["message"].endswith("did not start again, twice")
    eventually(lambda: not [file for file in server.files() if "staging" in file])

    chat = {"model": adapter["id"], "messages": [{"role": "user", "content": "?"}]}
    answer = http.post("/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_failed")
    assert answer.headers["x-should-retry"] == "false"

    eventually(lambda: http.get("/ready").status_code == 200, 240)
    again = http.post("/v1/adapters", json={"text": text, "wait": 120})
    assert again.status_code == 201, "a failed document may be uploaded again"
    assert again.json()["id"] != adapter["id"]


def test_a_server_killed_at_work_loses_no_adapter_and_no_job(server: Running) -> None:
    with httpx.Client(base_url=server.url, timeout=120) as http:
        text = document()
        kept = http.post("/v1/adapters", json={"text": text, "name": "kept", "wait": 120}).json()
        gone = http.post("/v1/adapters", json={"text": document(), "wait": 120}).json()
        assert http.delete(f"/v1/adapters/{gone['id']}").status_code == 200
        chat = {
            "model": "kept",
            "messages": [{"role": "user", "content": "What colour is the pump?"}],
            "temperature": 0,
            "max_tokens": 8,
        }
        answered = http.post("/v1/chat/completions", json=chat).json()["choices"]
        with server.generator_stopped():
            jobs = [
                http.post("/v1/adapters", json={"text": document(), "wait": 0}).json()["id"]
                for _ in range(6)
            ]
            eventually(lambda: http.get(f"/v1/adapters/{jobs[0]}").json()["status"] == "generating")
            server.kill()
    eventually(lambda: not server.left(), 120)  # the engine and the generator end by themselves

    server.start()
    with httpx.Client(base_url=server.url, timeout=120) as http:
        for job in jobs:
            assert eventually(partial(_finished, http, job), 120) == "ready"
        adapter = http.get(f"/v1/adapters/{kept['id']}").json()
        unchanged = {"sha256", "name", "version", "tokens", "created_at", "rank", "bytes"}
        assert {key: adapter[key] for key in unchanged} == {key: kept[key] for key in unchanged}
        assert adapter["resident"] is False
        assert http.post("/v1/chat/completions", json=chat).json()["choices"] == answered
        again = http.post("/v1/adapters", json={"text": text, "wait": 120})
        assert (again.status_code, again.json()["id"]) == (200, kept["id"])
        assert http.get(f"/v1/adapters/{gone['id']}").status_code == 404


def _failed(http: httpx.Client, where: str) -> dict[str, dict[str, str]] | None:
    adapter = http.get(where).json()
    return adapter if adapter["status"] == "failed" else None


def _finished(http: httpx.Client, adapter_id: str) -> str | None:
    status: str = http.get(f"/v1/adapters/{adapter_id}").json()["status"]
    return status if status in {"ready", "failed"} else None
