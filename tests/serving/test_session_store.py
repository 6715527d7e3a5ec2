"""utils/serving/session_store.py: both stores remember the same, for as long, as much, and for everybody."""

import asyncio
import threading

import pytest

from utils.serving.live_session import LiveSession, StoreError
from utils.serving.machine_store import MachineStore
from utils.serving.redis_store import RedisStore
from utils.serving.session_store import open_store
from utils.serving.shared_directory import machine_store, shared_directory

IDS = ["a", "a b", "\0", "ü\n", "{x}", "x" * 128, "1"]


@pytest.fixture(params=["machine", "redis"])
def with_store(request, tmp_path):
    """Run an async function with an empty store, in an event loop of its own."""
    def run(function, **limits):
        limits = {"ttl": 60, "max_sessions": 1000, "max_clicks": 5} | limits
        url = str(tmp_path / "store") if request.param == "machine" else request.getfixturevalue("redis_url")

        async def with_it():
            store = open_store(url, **limits)
            if request.param == "redis":
                await store.redis.flushall()
            try:
                return await function(store)
            finally:
                await store.close()
        return asyncio.run(with_it())
    return run


def test_clicks_add_up_and_the_last_ones_are_kept(with_store):
    async def clicks(store):
        of_a = [await store.click("a", str(number)) for number in range(7)]
        return of_a, await store.click("b", "x"), await store.size()
    found, other, size = with_store(clicks)
    assert found[0] == LiveSession(["0"], 1) and found[2] == LiveSession(["0", "1", "2"], 3)
    assert found[6] == LiveSession(["2", "3", "4", "5", "6"], 7)
    assert other == LiveSession(["x"], 1) and size == 2


@pytest.mark.parametrize("text", IDS, ids=repr)
def test_any_text_names_a_session_and_an_item(with_store, text):
    async def clicks(store):
        await store.click(text, text)
        await store.save(text, 1, "model", bytes(range(256)))
        found = await store.click(text, "y")
        await store.forget(text)
        return found, await store.size()
    assert with_store(clicks) == (LiveSession([text, "y"], 2, 1, "model", bytes(range(256))), 0)


def test_a_state_replaces_one_that_covers_less_or_is_another_models(with_store):
    async def states(store):
        for item in "abc":
            await store.click("s", item)
        found = []
        for covered, model, state in [(2, "m", b"2"), (1, "m", b"1"), (3, "m", b"3"), (4, "m", b"4"), (2, "n", b"n2"),
                                      (2, "n", b"again")]:
            await store.save("s", covered, model, state)
            session = await store.click("s", "d") if covered == 4 else None
            found.append(session)
        return found[3], await store.click("s", "e")
    after_four, last = with_store(states)
    assert after_four[1:] == (4, 3, "m", b"3"), "a state can't cover clicks that aren't there"
    assert last == LiveSession(list("abcde"), 5, 2, "n", b"n2")
    assert last.covered_of_kept == 2


def test_how_many_of_the_kept_clicks_a_state_covers():
    assert LiveSession(list("abc"), 3, 2).covered_of_kept == 2
    assert LiveSession(list("cde"), 5, 3).covered_of_kept == 1
    assert LiveSession(list("cde"), 5, 2).covered_of_kept == 0
    assert LiveSession(list("cde"), 5, 1).covered_of_kept < 0


def test_a_forgotten_session_is_not_brought_back_by_a_late_state(with_store):
    async def late(store):
        await store.click("s", "a")
        await store.forget("s")
        await store.save("s", 1, "m", b"x")
        await store.forget("never there")
        return await store.size(), await store.click("s", "b")
    assert with_store(late) == (0, LiveSession(["b"], 1))


def test_sessions_expire_after_their_last_click(with_store):
    async def wait(store):
        for name in "abc":
            await store.click(name, "1")
        await asyncio.sleep(0.7)
        await store.click("a", "2")
        await asyncio.sleep(0.7)
        return await store.click("a", "3"), await store.click("b", "2"), await store.size()
    assert with_store(wait, ttl=1.2) == (LiveSession(["1", "2", "3"], 3), LiveSession(["2"], 1), 2)


def test_the_session_longest_without_a_click_makes_room(with_store):
    async def crowd(store):
        for name in "abc":
            await store.click(name, "1")
        await store.click("a", "2")
        await store.click("d", "1")
        return await store.size(), [(await store.click(name, "x")).count for name in "da"]
    assert with_store(crowd, max_sessions=3) == (3, [2, 3])


def test_there_are_never_more_sessions_than_may_be(with_store):
    async def many(store):
        sizes = []
        for number in range(40):
            await store.click(str(number % 25), "x")
            if number % 7 == 0:
                await store.forget(str(number))
            sizes.append(await store.size())
        return sizes
    sizes = with_store(many, max_sessions=10)
    assert max(sizes) == 10 and sizes[:4] == [0, 1, 2, 3]


def test_clicks_of_several_workers_are_never_lost(tmp_path):
    path, clicks = str(tmp_path / "store"), 150

    def work(name):
        async def click():
            store = MachineStore(path, 60, 1000, 1000)
            for number in range(clicks):
                await store.click("s", f"{name}{number}")
            await store.close()
        asyncio.run(click())
    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = asyncio.run(MachineStore(path, 60, 1000, 1000).click("s", "last"))
    assert session.count == 3 * clicks + 1 and len(set(session.clicks)) == 3 * clicks + 1
    for name in "abc":
        found = [click for click in session.clicks if click[0] == name]
        assert found == [f"{name}{number}" for number in range(clicks)]


def test_clicks_at_once_are_never_lost(with_store):
    async def at_once(store):
        await asyncio.gather(*[store.click("s", str(number)) for number in range(50)])
        return await store.click("s", "last")
    session = with_store(at_once, max_clicks=100)
    assert session.count == 51 and set(session.clicks) == {*map(str, range(50)), "last"}


def test_stores_that_fail_say_so(tmp_path):
    async def fail(store):
        for question in (store.click("s", "a"), store.save("s", 1, "m", b""), store.forget("s"), store.size()):
            with pytest.raises(StoreError, match="session store"):
                await question
    asyncio.run(fail(RedisStore("redis://127.0.0.1:1/0", 60, 10, 10)))
    closed = MachineStore(str(tmp_path / "store"), 60, 10, 10)
    closed.database.close()
    asyncio.run(fail(closed))


@pytest.mark.parametrize("fails", [False, True])
def test_a_store_of_its_own_is_deleted(fails):
    try:
        with shared_directory(1 << 20) as directory, shared_directory(1 << 20) as another:
            async def click():
                store = open_store(machine_store(directory), 60, 10, 10)
                await store.click("a", "b")
                await store.close()
            asyncio.run(click())
            assert list(directory.iterdir()) and directory != another
            if fails:
                raise InterruptedError
    except InterruptedError:
        assert fails
    assert not directory.exists() and not another.exists()
