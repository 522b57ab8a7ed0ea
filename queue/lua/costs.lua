-- costs(ms, entries at the most, place to begin at) -> {entry, …}
-- The holds that ended at or after a time, oldest first: see `account` in common.lua.
return redis.call('ZRANGEBYSCORE', P .. 'held', ARGV[1], '+inf', 'LIMIT', ARGV[3], ARGV[2])
