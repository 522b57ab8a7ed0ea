-- first_waiting(number) -> ids of the jobs that are next in the queue, most urgent and oldest first
local ids = {}
for _, one in ipairs(heads(redis.call('ZRANGE', P .. 'classes', 0, -1), '-inf', tonumber(ARGV[1]))) do
  if get(one[1], 'state') == 'queued' then ids[#ids + 1] = one[1] end
end
return ids
