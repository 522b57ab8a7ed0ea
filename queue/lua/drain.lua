-- drain(box, '' | drain | now, text) -> 1 | 0 there is no such box
-- It takes no new jobs from now on; with `now` it also saves and hands back those it has.
local name = ARGV[1]
if redis.call('EXISTS', P .. 'box:' .. name) == 0 then return 0 end
redis.call('HSET', P .. 'box:' .. name, 'drain', ARGV[2], 'drain_text', ARGV[3])
if redis.call('HEXISTS', P .. 'placed', name) == 1 then
  place_box(name, redis.call('ZSCORE', P .. 'cards:0', name))
end
redis.call('PUBLISH', P .. 'changes', 'box:' .. name)
wake(name, '')
-- A box of an older version.
if redis.call('HEXISTS', P .. 'box:' .. name, 'free_mib') == 0 then redis.call('PUBLISH', P .. 'wake', '') end
return 1
