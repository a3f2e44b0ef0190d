from __future__ import annotations

import time

import pytest

from adapters_store import AdapterStatus, is_adapter_id, new_adapter_id
from adapters_store.records import CROCKFORD
from tests.adapters_store.making import new


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_adapter_id())
        time.sleep(0.002)
    assert ids == sorted(ids)


def test_an_id_carries_its_millisecond_and_eighty_random_bits() -> None:
    before = time.time_ns() // 1_000_000
    made = new_adapter_id()
    after = time.time_ns() // 1_000_000
    number = 0
    for character in made.removeprefix("adp_"):
        number = number * 32 + CROCKFORD.index(character)
    assert before <= number >> 80 <= after
    assert len({new_adapter_id()[-16:] for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text", ["", "handbook", "adp_", "adp_" + "0" * 25, "adp_" + "u" * 26, "ADP_" + "0" * 26]
)
def test_other_strings_are_not_taken_for_ids(text: str) -> None:
    assert is_adapter_id(new_adapter_id())
    assert not is_adapter_id(text)


@pytest.mark.parametrize("name", ["", "adp_" + "0" * 26])
def test_a_name_that_could_be_an_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        new("text", name=name)


def test_only_ready_failed_and_cancelled_are_terminal() -> None:
    assert [status.value for status in AdapterStatus if status.terminal] == [
        "ready",
        "failed",
        "cancelled",
    ]
