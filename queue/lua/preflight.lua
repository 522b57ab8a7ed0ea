-- preflight(id, box, what it found as JSON) -> {1} | {0} no longer queued
-- Records what a box found out about a queued job; others need not ask again, and this one may claim it now.
local id, box = ARGV[1], ARGV[2]
if get(id, 'state') ~= 'queued' then return { 0 } end
local known = decoded(get(id, 'preflight'))
known[box] = cjson.decode(ARGV[3])
set(id, { preflight = cjson.encode(known) })
redis.call('ZREM', P .. 'unchecked', id)
if redis.call('HEXISTS', P .. 'waiting', id) == 1 then
  index_anew(id)
  changed(id)
end
announce(id)
wake(box, id)
return { 1 }
