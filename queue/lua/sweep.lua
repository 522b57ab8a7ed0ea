-- sweep(ms between two sweeps, runs without a new checkpoint that end a job) -> ids that were mended; any box may call it
-- Jobs whose lease ran out go back to their old place; queued jobs whose message got lost get it again.
if not redis.call('SET', P .. 'swept', 1, 'NX', 'PX', ARGV[1]) then return {} end
local at, fruitless_limit, mended = present(), tonumber(ARGV[2]), {}

-- An interruption, counted as transition.ended counts it: no attempt is used up, a run without a checkpoint is noted.
local function interrupt(id)
  local text = get(id, 'box') .. ' was not heard of for the length of a lease'
  local counted = get(id, 'state') ~= 'claimed'
  if counted and (tonumber(get(id, 'attempt')) or 0) > 0 then redis.call('HINCRBY', P .. 'job:' .. id, 'attempt', -1) end
  local fruitless = redis.call('HINCRBY', P .. 'job:' .. id, 'fruitless', counted and 1 or 0)
  -- A job that is to be cancelled is never put back: `settle` ends it so.
  if fruitless < fruitless_limit or get(id, 'wish') == 'cancel' then
    return settle(id, 'queued', 'lease_expired', text, at)
  end
  settle(id, 'failed', 'crash_loop', text .. ' (' .. fruitless .. ' times without a new checkpoint)', at)
end

local expired, messages = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', at)) do
  if OWNED[get(id, 'state')] then expired[id] = true else redis.call('ZREM', P .. 'leases', id) end
end
for _, step in ipairs({ '', '\6\0223', '\6\0226', '\6\0229' }) do
  for _, message in ipairs(redis.call('LRANGE', P .. 'jobs' .. step, 0, -1)) do messages[message] = true end
end
-- The youngest first: of those that come back together the oldest is next.
for _, id in ipairs(redis.call('ZREVRANGE', P .. 'live', 0, -1)) do
  if expired[id] then
    interrupt(id)
    mended[#mended + 1] = id
  elseif get(id, 'state') == 'queued' and not messages[get(id, 'message')] then
    enqueue_first(id)
    note(id, at, '', 'its message was lost; it is back in the queue')
    announce(id)
    mended[#mended + 1] = id
  elseif OWNED[get(id, 'state')] and not redis.call('ZSCORE', P .. 'leases', id) then
    redis.call('ZADD', P .. 'leases', at + (tonumber(server('regroup')) or 60000), id)
  end
end
return mended
