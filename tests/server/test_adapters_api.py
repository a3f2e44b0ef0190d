"""Documents in, adapters out: the adapter API of a real server."""

import io
import json
import re
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from safetensors.torch import load

from adapters_store import is_adapter_id
from tests.server.running import JOBS, Json, Running, document, eventually

pytestmark = pytest.mark.engine


def upload(http: httpx.Client, text: str | None = None, **fields: object) -> httpx.Response:
    return http.post("/v1/adapters", json={"text": text or document(), **fields})


def ready(http: httpx.Client, text: str | None = None, **fields: object) -> Json:
    answer = upload(http, text, wait=120, **fields)
    assert answer.status_code in {200, 201}, answer.text
    adapter: Json = answer.json()
    return adapter


def generations(http: httpx.Client) -> float:
    """How many documents the generator has made since the server started."""
    figures = http.get("/metrics").text
    found = re.search(r'^doclora_stage_seconds_count\{stage="generate"\} (\S+)$', figures, re.M)
    assert found is not None
    return float(found[1])


def test_a_file_becomes_a_ready_adapter_with_its_facts(http: httpx.Client) -> None:
    text = document(6)
    answer = http.post(
        "/v1/adapters",
        files={"file": ("pumps.md", text.encode(), "text/markdown")},
        data={"name": "pumps", "metadata": '{"team": "water"}', "wait": "120"},
    )
    assert answer.status_code == 201
    adapter = answer.json()
    assert is_adapter_id(adapter["id"])
    assert answer.headers["location"] == f"/v1/adapters/{adapter['id']}"
    assert adapter["object"] == "adapter"
    assert (adapter["kind"], adapter["status"], adapter["error"]) == ("document", "ready", None)
    assert (adapter["name"], adapter["version"]) == ("pumps", 1)
    assert (adapter["source_name"], adapter["source_bytes"]) == ("pumps.md", len(text))
    assert adapter["metadata"] == {"team": "water"}
    chunks = adapter["chunks"]
    assert adapter["progress"] == {"done": chunks, "total": chunks}
    assert adapter["tokens"] > 0
    assert adapter["rank"] == 8 * (chunks + 1)
    assert adapter["bytes"] > 0
    assert re.fullmatch("[0-9a-f]{64}", adapter["sha256"])
    assert adapter["timings_ms"].keys() == {"extract", "generate", "store", "register"}
    assert all(time > 0 for time in adapter["timings_ms"].values()), "a new adapter is loaded"
    assert adapter["resident"] is True
    assert abs(adapter["created_at"] - time.time()) < 300
    assert http.get(f"/v1/adapters/{adapter['id']}").json() == adapter


def test_the_same_content_again_is_the_same_adapter_without_another_generation(
    http: httpx.Client,
) -> None:
    text = document()
    first = ready(http, text)
    made = generations(http)
    again = upload(http, text, wait=120)
    assert again.status_code == 200
    assert again.json()["id"] == first["id"]
    as_file = http.post("/v1/adapters", files={"file": ("other.txt", text.encode())})
    assert as_file.status_code == 200
    assert as_file.json()["id"] == first["id"]
    assert generations(http) == made


def test_the_same_content_twice_at_once_is_generated_once(
    http: httpx.Client, server: Running
) -> None:
    text = document()
    made = generations(http)
    with server.generator_stopped(), ThreadPoolExecutor(4) as threads:
        started = [threads.submit(upload, http, text, wait=120) for _ in range(4)]
        time.sleep(0.5)
        threading.Timer(0.1, server.continue_generator).start()
        answers = [answer.result() for answer in started]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert generations(http) == made + 1


def test_an_upload_that_does_not_wait_is_answered_at_once_and_followed_to_its_end(
    http: httpx.Client, server: Running
) -> None:
    states = []
    with server.generator_stopped():
        answer = upload(http, document(20), wait=0)
        assert answer.status_code == 202
        where = answer.headers["location"]
        assert answer.json()["status"] == "queued"
        eventually(lambda: http.get(where).json()["status"] == "generating")
        with http.stream("GET", f"{where}/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            for line in events.iter_lines():
                if line.startswith("data: "):
                    states.append(json.loads(line.removeprefix("data: ")))
                server.continue_generator()
    statuses = [state["status"] for state in states]
    assert statuses[0] == "generating"
    assert statuses[-1] == "ready"
    order = ["queued", "extracting", "generating", "storing", "ready"]
    assert statuses == sorted(statuses, key=order.index)
    assert states[-1] == http.get(where).json()


def test_the_events_of_a_finished_adapter_are_its_final_state(http: httpx.Client) -> None:
    adapter = ready(http)
    events = http.get(f"/v1/adapters/{adapter['id']}/events").text
    (line,) = [line for line in events.splitlines() if line.startswith("data: ")]
    assert json.loads(line.removeprefix("data: ")) == adapter


def test_a_wait_that_ends_before_the_adapter_is_ready_is_answered_202(
    http: httpx.Client, server: Running
) -> None:
    with server.generator_stopped():
        answer = upload(http, wait=0.3)
    assert answer.status_code == 202
    assert answer.json()["status"] == "generating"


def test_adapters_are_listed_page_by_page_and_filtered(http: httpx.Client) -> None:
    made = [ready(http, name="paged")["id"] for _ in range(5)]
    assert made == sorted(made)
    seen: list[str] = []
    page = http.get("/v1/adapters", params={"name": "paged", "limit": 2}).json()
    while True:
        ids = [adapter["id"] for adapter in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
        seen += ids
        if not page["has_more"]:
            break
        params = {"name": "paged", "limit": 2, "after": page["last_id"]}
        page = http.get("/v1/adapters", params=params).json()
    assert seen == made[::-1]
    oldest = http.get("/v1/adapters", params={"name": "paged", "order": "asc"}).json()["data"]
    assert [adapter["id"] for adapter in oldest] == made
    assert [adapter["version"] for adapter in oldest] == [1, 2, 3, 4, 5]
    for empty in ({"status": "failed"}, {"kind": "composite"}):
        page = http.get("/v1/adapters", params={"name": "paged"} | empty).json()
        assert page == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }


def test_an_adapter_is_evicted_and_loaded_on_demand(http: httpx.Client) -> None:
    where = f"/v1/adapters/{ready(http)['id']}"
    assert http.post(f"{where}/evict").json()["resident"] is False
    assert http.post(f"{where}/evict").json()["resident"] is False, "evicting is idempotent"
    assert http.post(f"{where}/load").json()["resident"] is True
    assert http.get(where).json()["resident"] is True


def test_an_adapter_that_is_not_ready_cannot_be_evicted_loaded_or_downloaded(
    http: httpx.Client, server: Running
) -> None:
    with server.generator_stopped():
        where = upload(http, wait=0).headers["location"]
        for answer in (
            http.post(f"{where}/evict"),
            http.post(f"{where}/load"),
            http.get(f"{where}/weights"),
        ):
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "adapter_not_ready"
            assert answer.headers["retry-after"] == "1"


def test_queued_and_running_jobs_can_be_cancelled_and_finished_ones_cannot(
    http: httpx.Client, server: Running
) -> None:
    before = server.files()
    with server.generator_stopped():
        running, *_, queued = [upload(http, wait=0).json()["id"] for _ in range(JOBS + 1)]
        eventually(lambda: _status(http, running) == "generating")
        assert _status(http, queued) == "queued"
        cancelled = http.post(f"/v1/adapters/{queued}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        threading.Timer(0.5, server.continue_generator).start()  # it must say that it let go
        cancelled = http.post(f"/v1/adapters/{running}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    eventually(lambda: not any("staging" in file for file in server.files() - before))
    finished = ready(http)["id"]
    refused = http.post(f"/v1/adapters/{finished}/cancel")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "adapter_state_conflict"


def test_the_weights_are_downloaded_as_a_zip_with_a_peft_adapter(http: httpx.Client) -> None:
    adapter = ready(http)
    answer = http.get(f"/v1/adapters/{adapter['id']}/weights")
    assert answer.headers["content-type"] == "application/zip"
    assert f'filename="{adapter["id"]}.zip"' in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        folder = adapter["id"]
        assert sorted(archive.namelist()) == [
            f"{folder}/adapter_config.json",
            f"{folder}/adapter_model.safetensors",
        ]
        config = json.loads(archive.read(f"{folder}/adapter_config.json"))
        tensors = load(archive.read(f"{folder}/adapter_model.safetensors"))
    assert config["r"] == adapter["rank"]
    assert config["base_model_name_or_path"] == adapter["base_model"], "no path of the server"
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name}
    assert ranks == {adapter["rank"]}


def test_a_deleted_adapter_is_gone_with_its_files(http: httpx.Client, server: Running) -> None:
    before = server.files()
    adapter = ready(http)
    where = f"/v1/adapters/{adapter['id']}"
    assert server.files() > before
    deleted = http.delete(where)
    assert deleted.json() == {"id": adapter["id"], "object": "adapter.deleted", "deleted": True}
    for answer in (
        http.get(where),
        http.delete(where),
        http.get(f"{where}/events"),
        http.get(f"{where}/weights"),
        http.post(f"{where}/load"),
        http.post(f"{where}/evict"),
        http.post(f"{where}/cancel"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "adapter_not_found"
    eventually(lambda: not server.files() - before)


def test_deleting_an_adapter_that_is_being_made_ends_its_event_stream(
    http: httpx.Client, server: Running
) -> None:
    before = server.files()
    with server.generator_stopped():
        where = upload(http, wait=0).headers["location"]
        with http.stream("GET", f"{where}/events") as events:
            lines = events.iter_lines()
            next(lines)
            assert http.delete(where).status_code == 200
            assert not [line for line in lines if "ready" in line]
    eventually(lambda: not server.files() - before)


def test_an_adapter_disappears_when_its_time_is_over(http: httpx.Client, server: Running) -> None:
    before = server.files()
    adapter = ready(http, ttl_seconds=1.5)
    assert 0 < adapter["expires_at"] - adapter["created_at"] <= 2
    where = f"/v1/adapters/{adapter['id']}"
    eventually(lambda: http.get(where).status_code == 404)
    eventually(lambda: not server.files() - before)


def test_a_name_moves_to_the_newest_ready_version(http: httpx.Client, server: Running) -> None:
    first = ready(http, name="moving")
    with server.generator_stopped():
        second = upload(http, name="moving", wait=0).json()
        assert (second["name"], second["version"]) == ("moving", 2)
        assert http.get("/v1/models/moving").json()["id"] == first["id"]
    eventually(lambda: http.get("/v1/models/moving").json()["id"] == second["id"])
    http.delete(f"/v1/adapters/{second['id']}")
    assert http.get("/v1/models/moving").json()["id"] == first["id"]


def _status(http: httpx.Client, adapter_id: str) -> str:
    status: str = http.get(f"/v1/adapters/{adapter_id}").json()["status"]
    return status
