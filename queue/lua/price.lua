-- price(box, price as JSON or '', source or '') -> 1 | 0 no such box | 2 its price was set by hand and stays
-- Writes what a box costs an hour, for the claims that end from now on; '' removes it. A price with a source, which says
-- who told it, is kept with the time, and replaces no price that was set by hand.
local box, price, source = ARGV[1], ARGV[2], ARGV[3] or ''
if not redis.call('ZSCORE', P .. 'boxes', box) and redis.call('EXISTS', P .. 'box:' .. box) == 0 then return 0 end
if source ~= '' then
  local known, new = decoded(hash_field('prices', box)), decoded(price)
  if type(known.per_hour) == 'number' and type(known.source) ~= 'string' then return 2 end
  new.source, new.at_ms = source, now()
  price = cjson.encode(new)
end
if price == '' then redis.call('HDEL', P .. 'prices', box) else redis.call('HSET', P .. 'prices', box, price) end
redis.call('PUBLISH', P .. 'changes', 'box:' .. box)
return 1
