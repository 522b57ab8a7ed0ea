-- claim(id, box, boot, lease in ms, promises as JSON, GPUs as JSON, text, least epoch)
-- -> {'claimed', epoch} | {'gone'} | {'stale'} | {'regrouping'} | {'drained'}
-- promises: [[resource, changes seen when it was judged, MiB], …]. One step: the message leaves the shared
-- list for the box's own, the epoch grows, owner and lease are written, VRAM and disk are promised.
-- least epoch: above any that the box's ledger has, which an older copy of these data may not know.
local id, box, boot, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local promises, gpus, text = cjson.decode(ARGV[5]), ARGV[6], ARGV[7]
local at = present()
if (tonumber(server('until')) or 0) > at then return { 'regrouping' } end
if (redis.call('HGET', P .. 'box:' .. box, 'drain') or '') ~= '' then return { 'drained' } end
if get(id, 'state') ~= 'queued' then
  unqueue(id)
  return { 'gone' }
end
for _, one in ipairs(promises) do
  local changes = redis.call('HGET', P .. 'promises:' .. one[1], '#') or '0'
  if changes ~= tostring(one[2]) then return { 'stale' } end
end
promise(id, promises)
unqueue(id)
local epoch = math.max((tonumber(get(id, 'epoch')) or 0) + 1, tonumber(ARGV[8]))
set(id, { state = 'claimed', epoch = epoch, box = box, boot = boot, promises = ARGV[5], gpus = gpus, updated_ms = at,
          reason = '', detail = '', phase = '' })
redis.call('ZADD', P .. 'leases', at + lease, id)
redis.call('SADD', P .. 'owned:' .. box, id)
redis.call('LPUSH', P .. 'box.' .. box, get(id, 'message'))
note(id, at, '', text)
announce(id)
return { 'claimed', epoch }
