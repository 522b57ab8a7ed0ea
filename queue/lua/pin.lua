-- pin(id, step, 1 | 0) -> the pinned steps, as a JSON list | '' no such job
-- Pins a checkpoint of the job, or unpins it; the owner learns of it with its next report.
local id = ARGV[1]
if get(id, 'state') == '' then return '' end
local pinned = pin(id, tonumber(ARGV[2]), ARGV[3] == '1')
if redis.call('HEXISTS', P .. 'waiting', id) == 1 then changed(id) end
announce(id)
redis.call('PUBLISH', P .. 'wish:' .. id, 'keep')
return pinned
