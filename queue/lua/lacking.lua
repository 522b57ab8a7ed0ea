-- lacking() -> ids of the jobs that are held because no box had what they read
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', P .. 'lacking')) do
  local lacks = get(id, 'lacks')
  if get(id, 'state') == 'waiting' and lacks ~= '' and lacks ~= '{}' then
    found[#found + 1] = id
  else
    redis.call('SREM', P .. 'lacking', id)
  end
end
return found
