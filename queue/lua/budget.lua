-- budget(user of jobs, {amount, currency} as JSON or '') -> 1 | 0 there was none to remove
-- Writes what the jobs of a user may cost from now on; '' ends that. Another amount of the same currency goes on from
-- what was spent. Jobs that are held stay held until their user releases them.
local user, wanted = ARGV[1], decoded(ARGV[2])
if ARGV[2] == '' then return redis.call('HDEL', P .. 'budgets', user) end
local known = decoded(hash_field('budgets', user))
local goes_on = known.currency == wanted.currency and type(known.spent) == 'number'
wanted.spent = goes_on and known.spent or 0
wanted.since_ms = goes_on and whole(known.since_ms, now()) or now()
redis.call('HSET', P .. 'budgets', user, cjson.encode(wanted))
return 1
