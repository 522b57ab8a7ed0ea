-- put_back(id, fields that were seen as JSON, fields as JSON, history as a JSON list, text) -> 'back' | 'changed' | 'owned'
-- Writes what a backup has of a damaged record, unless it changed since it was looked at (`changed`), or a box has the job
-- meanwhile under a later claim (`owned`); then brings the job into the places where its state belongs, and out of others.
local id, fields, text, at = ARGV[1], cjson.decode(ARGV[3]), ARGV[5], now()
for name, seen in pairs(cjson.decode(ARGV[2])) do
  if get(id, name) ~= seen then return 'changed' end
end
local lease = redis.call('ZSCORE', P .. 'leases', id)
local is_owned = OWNED[get(id, 'state')] and lease and tonumber(lease) > at
if is_owned and fields.epoch and whole(fields.epoch, 0) < whole(get(id, 'epoch'), 0) then return 'owned' end
-- With its message as it is now, and as it was.
unqueue(id)
set(id, fields)
unqueue(id)
local state, box = get_all(id, 'state', 'box')
redis.call('ZREM', P .. 'removed', id)
redis.call('ZADD', P .. 'lookup', 0, 'i:' .. id, 0, 'n:' .. get(id, 'name') .. '\0' .. id)
if ENDED[state] then
  redis.call('ZREM', P .. 'live', id)
  redis.call('ZADD', P .. 'ended', whole(get(id, 'ended_ms'), at), id)
else
  redis.call('ZREM', P .. 'ended', id)
  redis.call('ZADD', P .. 'live', 'NX', whole(get(id, 'created_ms'), at), id)
end
if OWNED[state] then
  -- Its box says what it has, or the lease runs out and the job is queued again.
  if not lease then redis.call('ZADD', P .. 'leases', at + whole(server('regroup'), 60000), id) end
  if box ~= '' then redis.call('SADD', P .. 'owned:' .. box, id) end
  promise(id, decoded(get(id, 'promises')))
else
  redis.call('ZREM', P .. 'leases', id)
  if box ~= '' then redis.call('SREM', P .. 'owned:' .. box, id) end
end
if state == 'waiting' and get(id, 'held') == '' then redis.call('ZADD', P .. 'conditional', at, id) end
if whole(get(id, 'start_ms'), 0) > at then redis.call('ZADD', P .. 'timed', get(id, 'start_ms'), id) end
for job in pairs(decoded(get(id, 'awaits'))) do redis.call('SADD', P .. 'dependants:' .. job, id) end
local sweep = get(id, 'sweep')
if sweep ~= '' then redis.call('HSETNX', P .. 'sweep:' .. sweep, get(id, 'sweep_number'), id) end
if get(id, 'trials') ~= '' and not ENDED[state] then redis.call('ZADD', P .. 'sweeps', at, id) end
local lines = cjson.decode(ARGV[4])
if redis.call('EXISTS', P .. 'history:' .. id) == 0 then
  for _, line in ipairs(lines) do redis.call('RPUSH', P .. 'history:' .. id, line) end
end
if state == 'queued' then enqueue_first(id) end
note(id, at, '', text)
announce(id)
return 'back'
