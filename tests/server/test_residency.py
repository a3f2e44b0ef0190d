"""Residency against an engine that records what it is told and can be held back."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from server.residency import AdapterGone, EngineRefused, EngineStopped, Full, NoRoom, Residency

pytestmark = pytest.mark.anyio

ANYWHERE = Path("/weights")


class RecordingEngine:
    """Keeps what is loaded; `closed` gates hold loads and unloads back, `refused` names fail."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.loaded: set[str] = set()
        self.log: list[str] = []
        self.refused: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()

    async def load(self, name: str, folder: Path) -> None:
        self.log.append(f"load {name}")
        assert name not in self.loaded
        await self.open.wait()
        await asyncio.sleep(0)
        if name in self.refused:
            raise EngineRefused(f"{name} does not fit")
        self.loaded.add(name)
        assert len(self.loaded) <= self.capacity

    async def unload(self, name: str) -> None:
        self.log.append(f"unload {name}")
        assert name in self.loaded
        self.loaded.remove(name)
        await self.open.wait()
        await asyncio.sleep(0)


@asynccontextmanager
async def residency_of(
    capacity: int, timeout: float = 5.0
) -> AsyncIterator[tuple[Residency, RecordingEngine]]:
    engine = RecordingEngine(capacity)
    async with Residency(engine, capacity, timeout) as residency:
        yield residency, engine


async def folder() -> Path:
    return ANYWHERE


async def settle() -> None:
    """Let everything that can run now run."""
    for _ in range(20):
        await asyncio.sleep(0)


class Holder:
    """A request that leases an adapter until it is told to end."""

    def __init__(self, residency: Residency, adapter: str) -> None:
        self.leased = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._hold(residency, adapter))

    async def _hold(self, residency: Residency, adapter: str) -> None:
        async with residency.lease(adapter, folder):
            self.leased = True
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task
        await settle()


async def test_an_adapter_is_loaded_by_its_first_request_and_stays_for_the_next() -> None:
    async with residency_of(2) as (residency, engine):
        for _ in range(3):
            async with residency.lease("a", folder):
                assert residency.resident == {"a"}
                assert residency.leases("a") == 1
        assert engine.log == ["load a"]
        assert residency.loads == 1


async def test_many_requests_for_one_absent_adapter_cause_one_load() -> None:
    async with residency_of(2) as (residency, engine):
        engine.open.clear()
        holders = [Holder(residency, "a") for _ in range(10)]
        await settle()
        assert residency.waiting == 10
        engine.open.set()
        await settle()
        assert all(holder.leased for holder in holders)
        assert residency.leases("a") == 10
        assert engine.log == ["load a"]


async def test_a_slow_load_does_not_delay_a_resident_adapter() -> None:
    async with residency_of(2) as (residency, engine):
        async with residency.lease("here", folder):
            pass
        engine.open.clear()
        slow = Holder(residency, "slow")
        await settle()
        async with asyncio.timeout(1), residency.lease("here", folder):
            assert not slow.leased
        engine.open.set()
        await settle()
        await slow.end()


async def test_the_least_recently_used_adapter_makes_room() -> None:
    async with residency_of(2) as (residency, engine):
        for adapter in ("a", "b", "a", "c"):
            async with residency.lease(adapter, folder):
                pass
        assert engine.log == ["load a", "load b", "unload b", "load c"]
        assert residency.resident == {"a", "c"}
        assert residency.evictions == 1


async def test_a_leased_adapter_is_never_the_one_to_go() -> None:
    async with residency_of(2) as (residency, engine):
        old = Holder(residency, "old")
        await settle()
        for adapter in ("b", "c", "d"):
            async with residency.lease(adapter, folder):
                assert "old" in engine.loaded
        await old.end()


async def test_no_more_is_evicted_than_is_wanted() -> None:
    async with residency_of(3) as (residency, engine):
        for adapter in "abc":
            async with residency.lease(adapter, folder):
                pass
        engine.open.clear()
        wanting = [Holder(residency, "d") for _ in range(3)]
        await settle()
        assert await residency.evict("nobody")  # any command has the owner look again
        engine.open.set()
        await settle()
        assert engine.log[-2:] == ["unload a", "load d"]
        assert residency.resident == {"b", "c", "d"}
        for holder in wanting:
            await holder.end()


async def test_loading_ahead_of_use_fills_what_is_free_and_nothing_goes_for_it() -> None:
    async with residency_of(3) as (residency, engine):
        async with residency.lease("idle", folder):
            pass
        ahead = [residency.preload(f"new {number}", folder) for number in range(8)]
        answers = await asyncio.gather(*ahead, return_exceptions=True)
        assert [type(answer) for answer in answers[2:]] == [Full] * 6
        assert engine.log == ["load idle", "load new 0", "load new 1"]
        assert residency.leases("new 0") == 0
        async with residency.lease("next", folder):
            assert residency.resident == {"new 0", "new 1", "next"}


async def test_loading_ahead_of_use_takes_no_place_that_a_request_waits_for() -> None:
    async with residency_of(1) as (residency, engine):
        first, second = Holder(residency, "a"), Holder(residency, "b")
        await settle()
        ending = asyncio.create_task(first.end())
        with pytest.raises(Full):
            await residency.preload("c", folder)
        await ending
        assert second.leased
        assert engine.log == ["load a", "unload a", "load b"]
        await second.end()


async def test_a_request_waits_while_all_adapters_are_leased_and_goes_on_when_one_is_free() -> None:
    async with residency_of(1) as (residency, engine):
        first = Holder(residency, "a")
        await settle()
        second = Holder(residency, "b")
        await settle()
        assert not second.leased
        assert engine.log == ["load a"]
        await first.end()
        assert second.leased
        assert engine.log == ["load a", "unload a", "load b"]


async def test_a_request_that_finds_no_room_in_time_is_told_so_and_leaves_nothing_behind() -> None:
    async with residency_of(1, timeout=0.02) as (residency, engine):
        holder = Holder(residency, "a")
        await settle()
        with pytest.raises(NoRoom, match=r"'b' was not loaded within 0.02 s: at most 1 adapters"):
            async with residency.lease("b", folder):
                pass
        await holder.end()
        assert residency.waiting == 0
        assert engine.log == ["load a"]


async def test_those_who_wait_for_room_are_served_in_turn() -> None:
    async with residency_of(1) as (residency, engine):
        holder = Holder(residency, "a")
        await settle()
        waiting = []
        for adapter in "bcd":
            waiting.append(Holder(residency, adapter))
            await settle()
        await holder.end()
        for next_holder in waiting:
            assert next_holder.leased
            await next_holder.end()
        assert [entry for entry in engine.log if entry.startswith("load")] == [
            "load a",
            "load b",
            "load c",
            "load d",
        ]


async def test_a_failed_load_reaches_those_who_waited_for_it_and_nobody_else() -> None:
    async with residency_of(2) as (residency, engine):
        engine.refused.add("bad")
        engine.open.clear()
        bad = [Holder(residency, "bad") for _ in range(3)]
        good = Holder(residency, "good")
        await settle()
        engine.open.set()
        await settle()
        for holder in bad:
            with pytest.raises(EngineRefused, match="bad does not fit"):
                await holder.task
        assert good.leased
        assert residency.failures == 1
        engine.refused.clear()
        async with residency.lease("bad", folder):
            assert "bad" in engine.loaded


async def test_a_missing_folder_fails_the_request_with_the_reason() -> None:
    async def missing() -> Path:
        raise FileNotFoundError("no such blob")

    async with residency_of(1) as (residency, engine):
        with pytest.raises(FileNotFoundError, match="no such blob"):
            async with residency.lease("a", missing):
                pass
        assert engine.log == []


async def test_a_folder_that_times_out_is_not_mistaken_for_a_lack_of_room() -> None:
    async def slow() -> Path:
        raise TimeoutError("the blob store is slow")

    async with residency_of(1) as (residency, _engine):
        with pytest.raises(TimeoutError, match="the blob store is slow"):
            async with residency.lease("a", slow):
                pass


async def test_a_client_that_leaves_while_it_waits_leaks_no_lease() -> None:
    async with residency_of(1) as (residency, engine):
        engine.open.clear()
        holder = Holder(residency, "a")
        await settle()
        holder.task.cancel()
        engine.open.set()
        await settle()
        assert residency.leases("a") == 0
        assert residency.waiting == 0
        async with residency.lease("b", folder):
            assert engine.loaded == {"b"}


async def test_a_client_that_leaves_in_the_moment_of_its_grant_leaks_no_lease() -> None:
    async with residency_of(1) as (residency, _engine):
        for turns in range(12):
            holder = Holder(residency, f"{turns}")
            for _ in range(turns):
                await asyncio.sleep(0)
            holder.task.cancel()
            await settle()
            assert residency.leases(f"{turns}") == 0


async def test_a_failing_request_gives_its_lease_back() -> None:
    async with residency_of(1) as (residency, _engine):
        with pytest.raises(ZeroDivisionError):
            async with residency.lease("a", folder):
                _ = 1 / 0
        await settle()
        assert residency.leases("a") == 0


async def test_evicting_an_idle_adapter_unloads_it_and_it_comes_back_by_itself() -> None:
    async with residency_of(2) as (residency, engine):
        async with residency.lease("a", folder):
            pass
        assert await residency.evict("a")
        assert engine.loaded == set()
        async with residency.lease("a", folder):
            assert engine.loaded == {"a"}


async def test_evicting_an_absent_adapter_is_done_at_once() -> None:
    async with residency_of(2) as (residency, engine):
        assert await residency.evict("a")
        assert engine.log == []


async def test_evicting_a_leased_adapter_waits_for_its_last_request() -> None:
    async with residency_of(2) as (residency, engine):
        first, second = Holder(residency, "a"), Holder(residency, "a")
        await settle()
        assert not await residency.evict("a")
        await first.end()
        assert engine.loaded == {"a"}
        await second.end()
        assert engine.loaded == set()


async def test_a_new_request_cancels_a_pending_eviction() -> None:
    async with residency_of(2) as (residency, engine):
        first = Holder(residency, "a")
        await settle()
        assert not await residency.evict("a")
        second = Holder(residency, "a")
        await settle()
        await first.end()
        await second.end()
        assert engine.log == ["load a"]


async def test_evicting_during_a_load_lets_the_waiting_requests_run_first() -> None:
    async with residency_of(2) as (residency, engine):
        engine.open.clear()
        holder = Holder(residency, "a")
        await settle()
        assert not await residency.evict("a")
        engine.open.set()
        await settle()
        assert holder.leased
        await holder.end()
        assert engine.loaded == set()


async def test_a_request_during_an_unload_gets_the_adapter_loaded_again() -> None:
    async with residency_of(1) as (residency, engine):
        async with residency.lease("a", folder):
            pass
        engine.open.clear()
        evicting = asyncio.create_task(residency.evict("a"))
        await settle()
        holder = Holder(residency, "a")
        await settle()
        engine.open.set()
        assert not await evicting
        await settle()
        assert holder.leased
        assert engine.log == ["load a", "unload a", "load a"]
        await holder.end()


async def test_removal_refuses_new_requests_lets_the_running_end_and_then_unloads() -> None:
    async with residency_of(2) as (residency, engine):
        running = Holder(residency, "a")
        await settle()
        removing = asyncio.create_task(residency.remove("a"))
        await settle()
        with pytest.raises(AdapterGone, match="'a' is being deleted"):
            async with residency.lease("a", folder):
                pass
        assert not removing.done()
        assert engine.loaded == {"a"}
        await running.end()
        await removing
        assert engine.loaded == set()


async def test_removal_of_an_absent_adapter_is_done_at_once() -> None:
    async with residency_of(2) as (residency, engine):
        await residency.remove("a")
        assert engine.log == []


async def test_removal_during_a_load_refuses_those_who_wait_and_unloads() -> None:
    async with residency_of(2) as (residency, engine):
        engine.open.clear()
        holder = Holder(residency, "a")
        await settle()
        removing = asyncio.create_task(residency.remove("a"))
        await settle()
        with pytest.raises(AdapterGone):
            await holder.task
        engine.open.set()
        await removing
        assert engine.loaded == set()


async def test_removal_of_an_adapter_that_waits_for_room_refuses_its_requests() -> None:
    async with residency_of(1) as (residency, engine):
        holder = Holder(residency, "a")
        await settle()
        waiting = Holder(residency, "b")
        await settle()
        await residency.remove("b")
        with pytest.raises(AdapterGone):
            await waiting.task
        await holder.end()
        assert engine.log == ["load a"]


async def test_a_removal_goes_on_when_its_caller_leaves() -> None:
    async with residency_of(2) as (residency, engine):
        running = Holder(residency, "a")
        await settle()
        removing = asyncio.create_task(residency.remove("a"))
        await settle()
        removing.cancel()
        await running.end()
        assert engine.loaded == set()


async def test_an_unload_that_fails_fails_the_removal_so_that_no_files_are_deleted() -> None:
    class DeadEngine(RecordingEngine):
        async def unload(self, name: str) -> None:
            raise EngineStopped("dead")

    async with Residency(DeadEngine(1), 1) as residency:
        async with residency.lease("a", folder):
            pass
        with pytest.raises(EngineStopped):
            await residency.remove("a")


async def test_shutting_down_ends_those_who_wait() -> None:
    async with residency_of(1) as (residency, engine):
        engine.open.clear()
        holder = Holder(residency, "a")
        await settle()
    with pytest.raises(EngineStopped):
        await holder.task


@pytest.mark.parametrize("seed", range(8))
async def test_any_mixture_of_commands_keeps_the_promises(seed: int) -> None:
    """Never more loaded than fit, nothing unloaded under a lease (the engine would lose it), no
    lease lost or left over, everything answered."""
    chance = random.Random(seed)
    adapters = [f"adapter {number}" for number in range(6)]
    removed: set[str] = set()

    async with residency_of(3, timeout=0.05) as (residency, engine):
        unloaded_under_lease = []

        async def request(adapter: str) -> None:
            try:
                async with residency.lease(adapter, folder):
                    for _ in range(chance.randrange(8)):
                        await asyncio.sleep(0)
                        if adapter not in engine.loaded:
                            unloaded_under_lease.append(adapter)
            except (NoRoom, AdapterGone, EngineRefused):
                pass

        async def caller() -> None:
            for _ in range(60):
                await act()

        async def act() -> None:
            adapter = chance.choice(adapters)
            what = chance.random()
            if what < 0.8:
                task = asyncio.create_task(request(adapter))
                if chance.random() < 0.2:
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            elif what < 0.95:
                await residency.evict(adapter)
            elif adapter not in removed:
                removed.add(adapter)
                await residency.remove(adapter)
                assert adapter not in engine.loaded
                removed.discard(adapter)

        engine.refused.add(adapters[0])
        async with asyncio.timeout(60), asyncio.TaskGroup() as callers:
            for _ in range(10):
                callers.create_task(caller())
        await settle()

        assert not unloaded_under_lease
        assert residency.waiting == 0
        assert all(residency.leases(adapter) == 0 for adapter in adapters)
        assert residency.resident == engine.loaded
        assert residency.loads > 10
        assert residency.evictions > 10
