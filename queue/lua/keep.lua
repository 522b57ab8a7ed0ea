-- keep(id, step, 1 | 0) -> steps that are kept now, as a JSON list | '' no such job
-- Pins a checkpoint of the job, or ends that; its owner hears of it with its next report.
local id = ARGV[1]
if get(id, 'state') == '' then return '' end
local kept = keep(id, tonumber(ARGV[2]), ARGV[3] == '1')
announce(id)
redis.call('PUBLISH', P .. 'wish:' .. id, 'keep')
return kept
