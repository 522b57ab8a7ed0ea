-- rank_logs(id, epoch, box or '', ends of the logs of ranks other than 0 as a JSON object) -> 1 | 0 not this owner's
-- The owner replaces what `pi0q logs --rank` shows.
local id = ARGV[1]
if check_owner(id, ARGV[3], ARGV[2]) ~= 'ours' then return 0 end
redis.call('SET', P .. 'tail:' .. id .. ':ranks', ARGV[4])
return 1
