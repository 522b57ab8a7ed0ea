-- reservations(ms between two plans) -> {ms, changes, 1 if the caller is to plan, pressed classes as JSON, {id, JSON, …}}
-- What is reserved for waiting jobs. One caller of all is to plan anew once in a while, and at once where jobs that need
-- several cards wait and none is reserved.
local at, found = now(), {}
local all = redis.call('HGETALL', P .. 'reserved')
for i = 1, #all, 2 do
  if whole(decoded(all[i + 1]).expires, 0) > at then
    found[#found + 1], found[#found + 2] = all[i], all[i + 1]
  elseif tonumber(ARGV[1]) > 0 then
    -- Who only reads may not be allowed to write.
    redis.call('HDEL', P .. 'reserved', all[i])
  end
end
local plans = false
if tonumber(ARGV[1]) > 0 and redis.call('EXISTS', P .. 'waiting') == 1 then
  plans = redis.call('SET', P .. 'planned', 1, 'NX', 'PX', ARGV[1])
  if not plans and #found == 0 and redis.call('ZCOUNT', P .. 'classes', 2 * SPAN, '+inf') > 0 then
    plans = redis.call('SET', P .. 'planned:again', 1, 'NX', 'PX', 1000)
  end
end
return { at, exact(order('reserved')), plans and 1 or 0, hash_field('order', 'pressed'), found }
