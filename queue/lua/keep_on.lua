-- keep_on(box, ms) -> 1 | 0 there is no such box
-- The box does not switch itself off for so long from now; 0: it may again.
local box, ms = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', P .. 'box:' .. box) == 0 then return 0 end
if ms > 0 then redis.call('HSET', P .. 'box:' .. box, 'keep_on', now() + ms) else redis.call('HDEL', P .. 'box:' .. box, 'keep_on') end
redis.call('PUBLISH', P .. 'changes', 'box:' .. box)
wake(box, '')
return 1
