-- claim(id, box, boot, lease in ms, promises as JSON, GPUs as JSON, text) -> {'claimed', epoch} | {'gone'} | {'stale'}
-- promises: [[resource, changes seen when it was judged, MiB], …]. One step: the message leaves the shared
-- list for the box's own, the epoch grows, owner and lease are written, VRAM and disk are promised.
local id, box, boot, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local promises, gpus, text = cjson.decode(ARGV[5]), ARGV[6], ARGV[7]
if get(id, 'state') ~= 'queued' then
  unqueue(id)
  return { 'gone' }
end
for _, promise in ipairs(promises) do
  local changes = redis.call('HGET', P .. 'promises:' .. promise[1], '#') or '0'
  if changes ~= tostring(promise[2]) then return { 'stale' } end
end
local at = now()
for _, promise in ipairs(promises) do
  redis.call('HSET', P .. 'promises:' .. promise[1], id, promise[3])
  redis.call('HINCRBY', P .. 'promises:' .. promise[1], '#', 1)
end
unqueue(id)
local epoch = redis.call('HINCRBY', P .. 'job:' .. id, 'epoch', 1)
set(id, { state = 'claimed', box = box, boot = boot, promises = ARGV[5], gpus = gpus, updated_ms = at, reason = '',
          detail = '', phase = '' })
redis.call('ZADD', P .. 'leases', at + lease, id)
redis.call('SADD', P .. 'owned:' .. box, id)
redis.call('LPUSH', P .. 'box.' .. box, get(id, 'message'))
note(id, at, '', text)
announce(id)
return { 'claimed', epoch }
