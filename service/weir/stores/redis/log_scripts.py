"""What changes the log in Redis, each in one script: all of it happens, or nothing does."""

from __future__ import annotations

from weir.stores.redis.connection import Script
from weir.stores.redis.lease import CHECK_FENCE

BELL = "log:bell"
"""The channel that every append rings."""

KEYS = ("log:state", "log", "log:payloads", "log:ids", "log:waiting", "log:waiting:batches", "log:waiting:bytes")
"""The keys of every script, after the fence."""

_NAMES = """
local state, log, payloads, ids = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, own_batches, own_bytes = KEYS[6], KEYS[7], KEYS[8]
local function number(hash, field) return tonumber(redis.call('HGET', hash, field) or 0) end
local function text(position) return string.format('%d', position) end
"""

# A header is a JSON list: id, kind, producer, samples, bytes, created_at.
_SUBTRACT = """
local function subtract(hash, producer, amount)
    if redis.call('HINCRBY', hash, producer, text(-amount)) <= 0 then redis.call('HDEL', hash, producer) end
end
local function no_longer_waits(position, header)
    if redis.call('ZREM', waiting, position) == 0 then return end
    subtract(own_batches, header[3], 1)
    subtract(own_bytes, header[3], header[5])
    redis.call('HINCRBY', state, 'waiting_bytes', text(-header[5]))
end
"""

APPEND = Script(f"""{_NAMES}
local id, header, payload, delivery, producer, size, bell = unpack(ARGV, 1, 7)
local max_batches, max_bytes, own_max_batches, own_max_bytes = unpack(ARGV, 8, 11)
local digest, now, retention = unpack(ARGV, 12, 14)
size = tonumber(size)
local position = redis.call('HGET', ids, id)
if position then return {{'new', position}} end  -- the second try of this very call

local first = KEYS[9]
if first then
    local seen = redis.call('HMGET', first, 'digest', 'at', 'position', 'header')
    if seen[1] and tonumber(seen[2]) >= now - retention then
        if seen[1] ~= digest then return {{'reused'}} end
        return {{'known', seen[3], seen[4]}}
    end
end

local function over(batches, bytes, most_batches, most_bytes)
    return batches >= (tonumber(most_batches) or math.huge)
        or (batches > 0 and bytes + size > (tonumber(most_bytes) or math.huge))
end
if delivery == '1' then
    local batches, bytes = redis.call('ZCARD', waiting), number(state, 'waiting_bytes')
    if over(batches, bytes, max_batches, max_bytes) then return {{'full', batches, bytes}} end
    batches, bytes = number(own_batches, producer), number(own_bytes, producer)
    if over(batches, bytes, own_max_batches, own_max_bytes) then return {{'quota', batches, bytes}} end
end

position = text(redis.call('HINCRBY', state, 'tail', 1))
redis.call('XADD', log, position .. '-0', 'header', header)
redis.call('HSET', payloads, position, payload)
redis.call('HSET', ids, id, position)
if delivery == '1' then
    redis.call('ZADD', waiting, position, position)
    redis.call('HINCRBY', own_batches, producer, 1)
    redis.call('HINCRBY', own_bytes, producer, size)
    redis.call('HINCRBY', state, 'waiting_bytes', size)
    redis.call('HINCRBY', state, 'kept_bytes', size)
end
if first then
    redis.call('DEL', first)
    redis.call('HSET', first, 'digest', digest, 'at', now, 'position', position, 'header', header)
    redis.call('PEXPIRE', first, string.format('%d', math.ceil(retention * 1000)))
end
redis.pcall('PUBLISH', bell, '')  -- a user who may not ring makes nobody's delivery fail
return {{'new', position}}
""")

# Who makes room may do so when there is none.
CONSUMED = Script(
    f"""{CHECK_FENCE}{_NAMES}{_SUBTRACT}
local position, page = tonumber(ARGV[2]), tonumber(ARGV[3])
if position > number(state, 'tail') then redis.call('HSET', state, 'tail', ARGV[2]) end
local done = redis.call('ZRANGE', waiting, '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, page)
for _, passed in ipairs(done) do
    local entry = redis.call('XRANGE', log, passed, passed)[1]
    no_longer_waits(passed, cjson.decode(entry[2][2]))
end
if #done == page then return 1 end
redis.call('HSET', state, 'consumed', text(math.max(position, number(state, 'consumed'))))
return 0
""",
    flags="allow-oom",
)

BACKLOG = Script(
    f"""{_NAMES}
local first = redis.call('ZRANGE', waiting, 0, 0)[1]
local header = first and redis.call('XRANGE', log, first, first)[1][2][2] or false
return {{redis.call('ZCARD', waiting), number(state, 'waiting_bytes'), header}}
""",
    flags="no-writes",
)

TRIM = Script(
    f"""{CHECK_FENCE}{_NAMES}
-- What waits is nobody's to drop.
local through = text(math.min(tonumber(ARGV[2]), number(state, 'consumed')))
local keep_bytes, page = tonumber(ARGV[3]), tonumber(ARGV[4])
local floor, kept, dropped = number(state, 'floor'), number(state, 'kept_bytes'), 0
for _, entry in ipairs(redis.call('XRANGE', log, '-', through, 'COUNT', page)) do
    if kept <= keep_bytes then break end
    local position, header = string.match(entry[1], '^%d+'), cjson.decode(entry[2][2])
    redis.call('HDEL', payloads, position)
    redis.call('HDEL', ids, header[1])
    if header[2] == 'batch' then kept = kept - header[5] end
    floor, dropped = tonumber(position), dropped + 1
end
if dropped > 0 then
    redis.call('XTRIM', log, 'MINID', '=', text(floor + 1))
    redis.call('HSET', state, 'floor', text(floor), 'kept_bytes', text(kept))
end
return {{dropped == page and 1 or 0, floor}}
""",
    flags="allow-oom",
)

REWRITE = Script(
    f"""{_NAMES}
local position = redis.call('HGET', ids, ARGV[1])
if not position then return 0 end
redis.call('HSET', payloads, position, ARGV[2])
return 1
""",
    flags="allow-oom",
)
