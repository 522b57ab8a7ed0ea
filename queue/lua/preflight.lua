-- preflight(id, box, what it found as JSON) -> {1} | {0} no longer queued
-- A box says what it found out about a waiting job; others need not ask again, and this one may claim it now.
local id, box = ARGV[1], ARGV[2]
if get(id, 'state') ~= 'queued' then return { 0 } end
local known = get(id, 'preflight')
known = known ~= '' and cjson.decode(known) or {}
known[box] = cjson.decode(ARGV[3])
set(id, { preflight = cjson.encode(known) })
announce(id)
wake(id)
return { 1 }
