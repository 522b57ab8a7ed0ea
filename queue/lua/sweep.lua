-- sweep(ms between two sweeps) -> ids that were mended; any box may call it at any time
-- Jobs whose lease ran out go back to their old place; queued jobs whose message got lost get it again.
if not redis.call('SET', P .. 'swept', 1, 'NX', 'PX', ARGV[1]) then return {} end
local at, mended = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', at)) do
  if OWNED[get(id, 'state')] then
    settle(id, 'queued', 'lease_expired', get(id, 'box') .. ' was not heard of for the length of a lease', at)
    mended[#mended + 1] = id
  else
    redis.call('ZREM', P .. 'leases', id)
  end
end
local present = {}
for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
  for _, message in ipairs(redis.call('LRANGE', P .. 'jobs' .. step, 0, -1)) do present[message] = true end
end
for _, id in ipairs(redis.call('ZRANGE', P .. 'live', 0, -1)) do
  if get(id, 'state') == 'queued' and not present[get(id, 'message')] then
    enqueue_first(id)
    note(id, at, '', 'its message was lost; it is back in the queue')
    announce(id)
    mended[#mended + 1] = id
  end
end
return mended
