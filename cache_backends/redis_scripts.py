"""What must happen at once in Redis: the scripts for index, hits, counts, purge log and leases.

They touch the keys beside the entries only, all of one slot. Sent whole by EVAL, so that a server
which forgot them needs no second try.

The index has, for each entry, its place in the order of storing (microseconds, each greater than
the one before) in `index` and in every group it belongs to, its end in `ends`, and in `records` its
size and groups, so that it can be taken out of all of these. There too are the sum of all sizes
(`bytes`), how many entries there are (`entries`) and how many in each group, by which is seen
whether a key was evicted. And `life`, a name that is lost with all of it, and `whole`, the life in
which all keys were last compared with the index.

The group of a prompt is `~` and its digest. It has no key of its own: `prompts` has digest and id
together, all at 0, so that it is in the order of the digests. `hits` are no part of what an entry
is: one that is stored again keeps its own.
"""

from __future__ import annotations

_INDEX = """
local index, ends, records, book = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local function seat(group, id)
    local prompt = string.match(group, '^~(.*)$')
    if prompt then return 'prompts', prompt .. id end
    return group, id
end
local function drop(id)
    local record = redis.call('HGET', records, id)
    local size, groups = string.match(record or '', '^(%d+) ?(.*)$')
    -- First what a server without memory refuses: then nothing is done by halves.
    if size then
        redis.call('HINCRBY', records, 'bytes', -size)
        redis.call('HINCRBY', records, 'entries', -1)
        redis.call('HDEL', records, id)
    end
    redis.call('ZREM', index, id)
    redis.call('ZREM', ends, id)
    for group in string.gmatch(groups or '', '%S+') do
        local set, member = seat(group, id)
        redis.call('ZREM', book .. set, member)
        if redis.call('HINCRBY', records, set, -1) <= 0 then
            redis.call('HDEL', records, set)
        end
    end
end
local function forget(id)
    drop(id)
    redis.call('ZREM', book .. 'hits', id)
end
"""

# ARGV: book, now, how many that ended to take out; then id, size, end or '', groups, place or ''
# of each entry. Two entries at the same place could not be told apart by a listing. Returns places.
NOTE = (
    _INDEX
    + """
local function free(place)
    for more = 0, 99 do
        local found = string.format('%.0f', place + more)
        if redis.call('ZCOUNT', index, found, found) == 0 then return found end
    end
    return place
end
local places = {}
local time = redis.call('TIME')
local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
local next = math.max(time[1] * 1000000 + time[2], (tonumber(last) or 0) + 1)
for at = 4, #ARGV, 5 do
    local id, size, ending, groups, place = unpack(ARGV, at, at + 4)
    drop(id)
    if place == '' then
        place = string.format('%.0f', next)
        next = next + 1
    else
        place = free(place)
    end
    redis.call('ZADD', index, place, id)
    redis.call('HSET', records, id, size .. ' ' .. groups)
    redis.call('HINCRBY', records, 'bytes', size)
    redis.call('HINCRBY', records, 'entries', 1)
    if ending ~= '' then redis.call('ZADD', ends, ending, id) end
    for group in string.gmatch(groups, '%S+') do
        local set, member = seat(group, id)
        -- What is in there and is not counted was left behind when the records were lost.
        if redis.call('HINCRBY', records, set, 1) == 1 then redis.call('UNLINK', book .. set) end
        redis.call('ZADD', book .. set, set == group and place or 0, member)
    end
    places[#places + 1] = place
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])) do
    forget(id)
end
return places
"""
)

# ARGV: book, microseconds that an entry must be known for; then id and place of each. One that was
# stored again has another place.
DROP = (
    _INDEX
    + """
local time = redis.call('TIME')
local latest = time[1] * 1000000 + time[2] - ARGV[2]
for at = 3, #ARGV, 2 do
    local id, place = ARGV[at], tonumber(ARGV[at + 1])
    if place <= latest and place == tonumber(redis.call('ZSCORE', index, id) or 0) then
        forget(id)
    end
end
"""
)

# ARGV: id and number of each. What the index does not name is gone: it would keep them for ever.
ADD_HITS = """
for at = 1, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[1], ARGV[at]) then
        redis.call('ZINCRBY', KEYS[2], ARGV[at + 1], ARGV[at])
    end
end
"""

# ARGV: name and amount of each.
ADD_COUNTS = """
for at = 1, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[at], ARGV[at + 1]) end
"""

# The log is one key, so that it is lost as a whole or not at all. The row of number 0 is the name
# of the store.
_LOG = """
local log = KEYS[1]
local store = redis.call('ZRANGEBYSCORE', log, 0, 0)[1]
if not store then
    store = ARGV[1]
    redis.call('ZADD', log, 0, store)
end
local head = redis.call('ZREVRANGE', log, 0, 0, 'WITHSCORES')[2]
"""

# ARGV: name for a new store, the filter as JSON.
ANNOUNCE = (
    _LOG
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number = string.format('%.0f', math.max(now, head + 1))
local at = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('ZADD', log, number, number .. ' ' .. head .. ' ' .. at .. ' ' .. ARGV[2])
return number
"""
)

# ARGV: name for a new store, the number after which rows are wanted.
PURGES = (
    _LOG
    + """
return {store, head, redis.call('ZRANGEBYSCORE', log, '(' .. ARGV[2], '+inf', 'WITHSCORES')}
"""
)

# ARGV: holder, milliseconds.
CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# ARGV: holder.
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
