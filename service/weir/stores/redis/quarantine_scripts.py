"""What changes the quarantine in Redis, each in one script: all of it happens, or nothing does."""

from __future__ import annotations

from weir.stores.redis.connection import ONCE, Script
from weir.stores.redis.lease import CHECK_FENCE

KEYS = (
    "held",
    "held:fates",
    "held:payloads",
    "held:order",
    "held:by_age",
    "held:resolved",
    "held:producers",
    "held:number",
)
"""The keys of every script, after the fence."""

# A record is a JSON list that begins with the producer and the time it was held at; a fate is one of state, relabel,
# by, at and note, all of them text or null, as Lua would round a number that it writes.
_NAMES = """
local records, fates, payloads, order = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local by_age, resolved, producers, last = KEYS[6], KEYS[7], KEYS[8], KEYS[9]

local function set_fate(id, record, fate)
    record = cjson.decode(record)
    redis.call('HSET', fates, id, cjson.encode(fate))
    if fate[1] == 'held' then
        if redis.call('ZADD', by_age, record[2], id) == 1 then redis.call('HINCRBY', producers, record[1], 1) end
    elseif redis.call('ZREM', by_age, id) == 1 and redis.call('HINCRBY', producers, record[1], -1) <= 0 then
        redis.call('HDEL', producers, record[1])
    end
    if (fate[1] == 'released' or fate[1] == 'discarded') and fate[4] ~= cjson.null then
        redis.call('ZADD', resolved, fate[4], id)
    else
        redis.call('ZREM', resolved, id)
    end
end

local function changed(fate, change)
    fate = cjson.decode(fate)
    for i, value in ipairs(cjson.decode(change)) do
        if value ~= cjson.null then fate[i] = value end
    end
    return fate
end

local function drop(id)
    local record = redis.call('HGET', records, id)
    if not record then return 0 end
    if redis.call('ZREM', by_age, id) == 1 then
        local producer = cjson.decode(record)[1]
        if redis.call('HINCRBY', producers, producer, -1) <= 0 then redis.call('HDEL', producers, producer) end
    end
    redis.call('ZREM', resolved, id)
    redis.call('ZREM', order, id)
    for _, hash in ipairs({records, fates, payloads}) do redis.call('HDEL', hash, id) end
    return 1
end
"""

PUT = Script(f"""{CHECK_FENCE}{_NAMES}
for i = 2, #ARGV, 4 do
    local id, record, fate, payload = unpack(ARGV, i, i + 3)
    if redis.call('HSETNX', records, id, record) == 1 then
        redis.call('HSET', payloads, id, payload)
        redis.call('ZADD', order, redis.call('INCR', last), id)
        set_fate(id, record, cjson.decode(fate))
    end
end
""")

# Reviewers, expiry and erasure go on when memory is full: they are what makes room.
MOVE = Script(
    f"""{ONCE}{_NAMES}
local id, change = ARGV[1], ARGV[2]
local record, fate = redis.call('HGET', records, id), redis.call('HGET', fates, id)
if not record then return {{'missing'}} end
if not repeated() then
    local state, expected = cjson.decode(fate)[1], false
    for i = 3, #ARGV do expected = expected or state == ARGV[i] end
    if not expected then return {{'elsewhere', state}} end
    set_fate(id, record, changed(fate, change))
    remember()
end
return {{'moved', record, redis.call('HGET', fates, id), redis.call('HGET', payloads, id)}}
""",
    flags="allow-oom",
)

EXPIRE = Script(
    f"""{_NAMES}
local before, change, page = ARGV[1], ARGV[2], ARGV[3]
local old = redis.call('ZRANGE', by_age, '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, page)
for _, id in ipairs(old) do
    set_fate(id, redis.call('HGET', records, id), changed(redis.call('HGET', fates, id), change))
end
return #old
""",
    flags="allow-oom",
)

DROP = Script(
    f"""{_NAMES}
local dropped = 0
for _, id in ipairs(ARGV) do dropped = dropped + drop(id) end
return dropped
""",
    flags="allow-oom",
)

DROP_RESOLVED = Script(
    f"""{_NAMES}
local old = redis.call('ZRANGE', resolved, '-inf', '(' .. ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, id in ipairs(old) do drop(id) end
return #old
""",
    flags="allow-oom",
)
