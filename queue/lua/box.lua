-- box(name, box id, fields as JSON, ms after which a silent namesake no longer counts) -> 1 | 0 another box has that name
local name, box_id, fields, silent = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[4])
local at, seen = now(), tonumber(redis.call('ZSCORE', P .. 'boxes', name) or 0)
local holder = redis.call('HGET', P .. 'box:' .. name, 'box_id')
if holder and holder ~= box_id and at - seen < silent then return 0 end
redis.call('HSET', P .. 'box:' .. name, 'box_id', box_id)
for field, value in pairs(fields) do redis.call('HSET', P .. 'box:' .. name, field, value) end
redis.call('ZADD', P .. 'boxes', at, name)
redis.call('PUBLISH', P .. 'changes', 'box:' .. name)
return 1
