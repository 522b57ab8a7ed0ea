-- submit(id, fields as JSON, text) -> 1 put down, 0 was there already (a repeated call of one submit)
local id, fields, text = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
if redis.call('EXISTS', P .. 'job:' .. id) == 1 then return 0 end
local at = now()
set(id, fields)
set(id, { state = 'queued', created_ms = at, updated_ms = at, queued_ms = at, epoch = 0 })
-- Jobs of one millisecond keep the order in which they came.
local youngest = tonumber(redis.call('ZREVRANGE', P .. 'live', 0, 0, 'WITHSCORES')[2] or 0)
redis.call('ZADD', P .. 'live', math.max(at, youngest + 1), id)
redis.call('ZADD', P .. 'lookup', 0, 'i:' .. id, 0, 'n:' .. fields.name .. '\0' .. id)
redis.call('LPUSH', queue_of(id), get(id, 'message'))
note(id, at, '', text)
announce(id)
wake(id)
return 1
