-- forget_box(box, silent in ms) -> 'removed' | 'up' heard of within that time | 'owns' holds a lease | '' no such box
local name, silent = ARGV[1], tonumber(ARGV[2])
local seen = redis.call('ZSCORE', P .. 'boxes', name)
if not seen and redis.call('EXISTS', P .. 'box:' .. name) == 0 then return '' end
if now() - tonumber(seen or 0) < silent and hash_field('box:' .. name, 'status') ~= 'stopped' then return 'up' end
if redis.call('SCARD', P .. 'owned:' .. name) > 0 then return 'owns' end
busy(name)
unplace(name)
redis.call('ZREM', P .. 'boxes', name)
redis.call('SREM', P .. 'awaited', name)
redis.call('HDEL', P .. 'prices', name)
for _, kind in ipairs({ 'box:', 'refusals:', 'plans:' }) do redis.call('DEL', P .. kind .. name) end
redis.call('PUBLISH', P .. 'changes', 'box:' .. name)
return 'removed'
