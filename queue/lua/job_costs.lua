-- job_costs(id, 1 for the hold that goes on alone) -> {entry, …, of a job that is owned one more for what goes on}
-- The holds of one job, oldest first: see `account` in common.lua.
local id = ARGV[1]
local found = ARGV[2] == '1' and {} or redis.call('LRANGE', P .. 'holds:' .. id, 0, -1)
if OWNED[get(id, 'state')] and get(id, 'claimed_ms') ~= '' then found[#found + 1] = hold_of(id, get(id, 'state'), now()) end
return found
