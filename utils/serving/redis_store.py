"""Live sessions in a Redis server, for workers on any number of machines."""

import time

from utils.serving.live_session import LiveSession, StoreError

REDIS_SECONDS = 1.0
CONNECTIONS = 100  # of a worker to Redis

# Others may have written to these keys. So every script first asks each key something, and deletes it if it is of
# another type.
CHECKED = """
local function checked(key, command, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    if string.find(found.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
    found = redis.call(command, key, ...)
  end
  return found
end
local function integer(text)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
end
"""
# Changes all keys of a session, and the index of sessions by the time of their last click, in one step. KEYS holds the
# names of the index, of the session's clicks, and of the hash with its counts and state. The script itself makes the
# names for the oldest session, with the prefix in ARGV[7]. A hash that can't be right is dropped: the clicks that are
# there are replayed.
CLICK = CHECKED + """
checked(KEYS[1], 'ZCARD')
local kept = checked(KEYS[2], 'LLEN')
local before = checked(KEYS[3], 'HMGET', 'count', 'covered')
local now, ttl, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local count, covered = integer(before[1] or '0'), integer(before[2] or '0')
if not count or not covered or count < kept or count < covered then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'count', math.max(count or 0, kept))
end
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[6]), -1)
redis.call('HINCRBY', KEYS[3], 'count', 1)
redis.call('PEXPIRE', KEYS[2], math.ceil(ttl * 1000))
redis.call('PEXPIRE', KEYS[3], math.ceil(ttl * 1000))
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ttl)
while redis.call('ZCARD', KEYS[1]) > most do
  local oldest = redis.call('ZPOPMIN', KEYS[1])[1]
  redis.call('DEL', ARGV[7] .. 'clicks:' .. oldest, ARGV[7] .. 'state:' .. oldest)
end
return {redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HMGET', KEYS[3], 'count', 'covered', 'model', 'state')}
"""
SAVE = CHECKED + """
local known = checked(KEYS[1], 'HMGET', 'count', 'covered', 'model')
local count, covered = integer(known[1]), integer(known[2]) or 0
if count and count >= tonumber(ARGV[1]) and (known[3] ~= ARGV[2] or covered < tonumber(ARGV[1])) then
  redis.call('HSET', KEYS[1], 'covered', ARGV[1], 'model', ARGV[2], 'state', ARGV[3])
end
"""
FORGET = CHECKED + """
checked(KEYS[1], 'ZREM', ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
"""


class RedisStore:
    """Sessions in a Redis server.

    The parameters are those of `MachineStore`, but with a URL instead of the path. `max_bytes` has no effect: Redis
    itself bounds its memory, by its `maxmemory`.
    """

    PREFIX = "gru4rec:"
    INDEX = PREFIX + "sessions"

    def __init__(self, url, ttl, max_sessions, max_clicks, max_bytes=None):
        import redis.asyncio as redis  # only this store needs it
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        # A connection that Redis has closed is tried again. A click that times out is not: Redis may have counted it.
        retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self.errors = (redis.RedisError, OSError, TimeoutError)
        self.limits = (ttl, max_sessions, max_clicks, self.PREFIX)
        # Where all connections are busy, a click waits for one instead of being refused.
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=REDIS_SECONDS,
                                                     socket_timeout=REDIS_SECONDS,
                                                     socket_connect_timeout=REDIS_SECONDS, retry=retry)
        self.redis = redis.Redis.from_pool(pool)
        self.click_script, self.save_script, self.forget_script = map(self.redis.register_script,
                                                                      (CLICK, SAVE, FORGET))

    async def click(self, session_id, item_id):
        clicks, (count, covered, model, state) = await self._ask(
            self.click_script(self._keys(session_id), [session_id, item_id, time.time(), *self.limits]))
        return LiveSession([_text(item) for item in clicks], int(count), int(covered or 0), _text(model or b""),
                           state or b"")

    async def save(self, session_id, covered, model, state):
        await self._ask(self.save_script(self._keys(session_id)[2:], [covered, model, state]))

    async def forget(self, session_id):
        await self._ask(self.forget_script(self._keys(session_id), [session_id]))

    async def size(self):
        return await self._ask(self.redis.zcount(self.INDEX, time.time() - self.limits[0], "+inf"))

    async def close(self):
        await self.redis.aclose()

    def _keys(self, session_id):
        return [self.INDEX, f"{self.PREFIX}clicks:{session_id}", f"{self.PREFIX}state:{session_id}"]

    async def _ask(self, command):
        try:
            return await command
        except self.errors as error:
            raise StoreError(f"session store: {type(error).__name__}: {error}") from error


def _text(data):
    """Bytes as text; what is not UTF-8 becomes something that no item and no model is called."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
