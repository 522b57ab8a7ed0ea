-- submit_trials(sweep, trials as a JSON list of {id, fields}, text, user or '') -> how many of them are new
-- Queues trials of a sweep, some at a time. Sent twice, each trial is made once. The user's limit (submit.lua) was held
-- against all of them with the sweep.
local sweep, made, at, user = ARGV[1], 0, now(), ARGV[4] or ''
local limited, own = hash_field('limits', user) ~= '', P .. 'submitted:' .. user
if ENDED[get(sweep, 'state')] or get(sweep, 'trials') == '' then return 0 end
for _, one in ipairs(cjson.decode(ARGV[2])) do
  local id, fields = one[1], one[2]
  if redis.call('EXISTS', P .. 'job:' .. id) == 0 then
    if limited then redis.call('ZADD', own, #cjson.encode(fields), id) end
    add_job(id, fields, ARGV[3], '', at)
    made = made + 1
  end
end
count_trials(sweep, at)
return made
