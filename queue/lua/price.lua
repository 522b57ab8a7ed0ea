-- price(box, price as JSON or '') -> 1 | 0 no such box
-- Writes what a box costs an hour, for the claims that end from now on; '' removes it.
local box, price = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', P .. 'boxes', box) and redis.call('EXISTS', P .. 'box:' .. box) == 0 then return 0 end
if price == '' then redis.call('HDEL', P .. 'prices', box) else redis.call('HSET', P .. 'prices', box, price) end
redis.call('PUBLISH', P .. 'changes', 'box:' .. box)
return 1
