"""utils/serving/redis_store.py: what others wrote to the keys of live sessions is dropped, and the clicks go on."""

import asyncio

import numpy as np
import pytest

from utils.serving.live_session import LiveSession, StoreError
from utils.serving.redis_store import CONNECTIONS, RedisStore

CLICKS, STATE = RedisStore.PREFIX + "clicks:s", RedisStore.PREFIX + "state:s"
KINDS = {CLICKS: "list", STATE: "hash", RedisStore.INDEX: "zset"}
WRITES = {"list": lambda redis, key: redis.rpush(key, "x"), "hash": lambda redis, key: redis.hset(key, "x", "y"),
          "string": lambda redis, key: redis.set(key, "x"), "set": lambda redis, key: redis.sadd(key, "x"),
          "zset": lambda redis, key: redis.zadd(key, {"x": 1}),
          "stream": lambda redis, key: redis.xadd(key, {"x": "y"})}


@pytest.fixture
def with_store(redis_url):
    """Run an async function with a store that has a session of two clicks, and a state that covers the first."""
    def run(function):
        async def with_it():
            store = RedisStore(redis_url, 60, 1000, 5)
            try:
                await store.redis.flushall()
                await store.click("s", "a")
                await store.save("s", 1, "m", b"state")
                assert await store.click("s", "b") == LiveSession(["a", "b"], 2, 1, "m", b"state")
                return await function(store)
            finally:
                await store.close()
        return asyncio.run(with_it())
    return run


@pytest.mark.parametrize("field, value", [
    ("count", "abc"), ("count", ""), ("count", "-3"), ("count", "2.5"), ("count", "1e3"), ("count", "9" * 30),
    ("count", b"\xff\xfe"), ("count", "1"), ("count", "\0"),
    ("covered", "abc"), ("covered", ""), ("covered", "-1"), ("covered", "1 "), ("covered", b"\xff"), ("covered", "3"),
    ("covered", "0x1")])
def test_counts_that_cannot_be_right_let_the_clicks_be_replayed(with_store, field, value):
    async def spoil(store):
        await store.redis.hset(STATE, field, value)
        await store.save("s", 2, "m", b"two")  # as by a worker that was answering meanwhile
        await store.redis.hset(STATE, field, value)
        found = await store.click("s", "c")
        await store.save("s", 3, "m", b"new")
        return found, await store.click("s", "d")
    found, after = with_store(spoil)
    assert found == LiveSession(["a", "b", "c"], 3), "without a state, all of its clicks are replayed"
    assert after == LiveSession(["a", "b", "c", "d"], 4, 3, "m", b"new")


def test_bytes_that_are_no_text(with_store):
    async def spoil(store):
        await store.redis.hset(STATE, "model", b"\xff\xfe")
        await store.redis.lset(CLICKS, 0, b"\xff\xfe")
        await store.redis.zadd(RedisStore.INDEX, {b"\xff\xfe": 1e12})
        return await store.click("s", "c"), await store.size()
    found, size = with_store(spoil)
    assert found == LiveSession(["", "b", "c"], 3, 1, "", b"state") and size == 2


@pytest.mark.parametrize("key, kind", [(key, kind) for key in KINDS for kind in WRITES if kind != KINDS[key]])
def test_keys_of_another_type_are_replaced(with_store, key, kind):
    async def spoil(store):
        found = []
        for ask in (lambda: store.click("s", "c"), lambda: store.save("s", 1, "n", b"1"), lambda: store.forget("s")):
            await store.redis.delete(key)
            await WRITES[kind](store.redis, key)
            found.append(await ask())
        await store.forget("s")
        gone = await store.redis.exists(CLICKS, STATE)
        await WRITES[kind](store.redis, key)
        found += [await store.click("s", item) for item in "xy"]
        kinds = [(await store.redis.type(name)).decode() for name in KINDS]
        return found, gone, kinds, [await store.redis.ttl(name) for name in (CLICKS, STATE)], await store.size()
    (after, _, _, *anew), gone, kinds, seconds, size = with_store(spoil)
    assert after in [LiveSession(["c"], 3, 1, "m", b"state") if key == CLICKS else LiveSession(["a", "b", "c"], 3),
                     LiveSession(["a", "b", "c"], 3, 1, "m", b"state")]
    assert anew == [LiveSession(["x"], 1), LiveSession(["x", "y"], 2)] and not gone
    assert kinds == [*KINDS.values()] and all(0 < left <= 60 for left in seconds) and size == 1


@pytest.mark.parametrize("lost", KINDS)
def test_keys_that_redis_gave_up(with_store, lost):
    """As it does where it is short of memory."""
    async def lose(store):
        await store.redis.delete(lost)
        found = await store.click("s", "c")
        await store.save("s", found.count, "m", b"new")
        return found, await store.click("s", "d")
    found, after = with_store(lose)
    kept = ["c"] if lost == CLICKS else ["a", "b", "c"]
    assert found.clicks == kept and after.clicks == [*kept, "d"] and after.covered_of_kept == len(kept)


def test_a_redis_that_is_full_or_may_not_be_written_to_says_so(with_store):
    async def fill(store):
        await store.redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreError, match="session store"):
                await store.click("s", "c")
        finally:
            await store.redis.config_set("maxmemory", "0")
        return await store.click("s", "d")
    assert with_store(fill).clicks[-1] == "d"


def test_any_bytes_at_all_in_any_key(with_store):
    random = np.random.default_rng(0)

    async def spoil(store):
        for _ in range(100):
            await store.redis.hset(STATE, random.choice(["count", "covered", "model", "state"]), random.bytes(4))
            await store.redis.rpush(CLICKS, random.bytes(3))
            found = await store.click("s", "c")
            assert found.clicks[-1] == "c" and 0 <= found.covered <= found.count and len(found.clicks) <= 5
            await store.save("s", found.count, "m", b"1")
    with_store(spoil)


def test_more_clicks_at_once_than_connections_wait_for_one(with_store):
    async def click_often(store):
        found = await asyncio.gather(*[store.click(f"many-{number}", "a") for number in range(3 * CONNECTIONS)])
        return {session.count for session in found}, len(await store.redis.client_list())
    counts, connections = with_store(click_often)
    assert counts == {1} and connections <= CONNECTIONS
