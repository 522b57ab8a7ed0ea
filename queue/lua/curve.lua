-- curve(id, epoch, box or '', points that stay, points as a JSON list of texts, points at the most)
-- -> {1, points that the server has} | {0} another claim owns the job | {2} this server knows less than the owner
-- The owner replaces the end of its job's curve: what comes after the first `stay` points. If the server has fewer
-- than that (it came back with older data), nothing is changed, and the owner sends them all.
local id, stay = ARGV[1], tonumber(ARGV[4])
local owner = check_owner(id, ARGV[3], ARGV[2])
if owner ~= 'ours' then return { owner == 'older' and 2 or 0 } end
local key = P .. 'curve:' .. id
local known = redis.pcall('LLEN', key)
if type(known) ~= 'number' then
  -- Anyone may have written something else there.
  redis.call('DEL', key)
  known = 0
end
if known < stay then return { 1, known } end
if stay == 0 then redis.call('DEL', key) else redis.call('LTRIM', key, 0, stay - 1) end
local points = cjson.decode(ARGV[5])
for at = 1, #points, 500 do
  redis.call('RPUSH', key, unpack(points, at, math.min(at + 499, #points)))
end
redis.call('LTRIM', key, 0, tonumber(ARGV[6]) - 1)
return { 1, redis.call('LLEN', key) }
