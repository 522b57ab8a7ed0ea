-- box(name, box id, fields as JSON, lease, silent and regroup in ms, beats seen, drain seen)
-- -> {0} another box has that name | {1, beats, run id, drain, older, ms that claims still wait}
-- silent: after that many ms a namesake no longer counts. beats seen: if these data count fewer, they are older,
-- and what the box saw of its user's wish (drain seen) counts.
local name, box_id, fields, silent, regroup = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local at = present()
local seen = tonumber(redis.call('ZSCORE', P .. 'boxes', name) or 0)
local holder = redis.call('HGET', P .. 'box:' .. name, 'box_id')
if holder and holder ~= box_id then
  if at - seen < silent and redis.call('HGET', P .. 'box:' .. name, 'status') ~= 'stopped' then return { 0 } end
  redis.call('HDEL', P .. 'box:' .. name, 'drain', 'drain_text')
end
redis.call('HSET', P .. 'box:' .. name, 'box_id', box_id)
for field, value in pairs(fields) do redis.call('HSET', P .. 'box:' .. name, field, value) end
redis.call('ZADD', P .. 'boxes', at, name)
redis.call('HSET', P .. 'server', 'lease', ARGV[4], 'regroup', regroup)

local older = tonumber(ARGV[7]) > (tonumber(server('beats')) or 0)
if older then
  redis.call('HSET', P .. 'box:' .. name, 'drain', ARGV[8])
  pause(at, at, regroup)
  redis.call('HSET', P .. 'server', 'older', 1)
end
redis.call('SREM', P .. 'awaited', name)
local left = (tonumber(server('until')) or 0) - at
if left > 0 and server('older') == '' and redis.call('EXISTS', P .. 'awaited') == 0 then left = 0 end
if left <= 0 and (tonumber(server('until')) or 0) > 0 then
  redis.call('HSET', P .. 'server', 'until', 0)
  redis.call('HDEL', P .. 'server', 'older')
  wake('')
end
local beats = redis.call('HINCRBY', P .. 'server', 'beats', 1)
redis.call('PUBLISH', P .. 'changes', 'box:' .. name)
return { 1, beats, server('run'), redis.call('HGET', P .. 'box:' .. name, 'drain') or '', older and 1 or 0, math.max(0, left) }
