-- reserve(changes seen, reservations as JSON, pressed classes as JSON) -> 1 | 0 another plan was made meanwhile
-- reservations: [[id, box, [GPU, …], ms when the job may start or -1, ms until which this holds], …], all that there are.
-- What cannot be is left out: a job that waits no more, a box that is drained or gone, a GPU that is kept already.
local at, kept, all = now(), {}, decoded(ARGV[2])
if order('reserved') ~= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', P .. 'reserved')
for i = 1, math.min(#all, 16) do
  local id, box, cards, from, expires = unpack(all[i])
  local good = redis.call('HEXISTS', P .. 'waiting', id) == 1 and redis.call('ZSCORE', P .. 'boxes', box)
    and hash_field('box:' .. box, 'drain') == '' and hash_field('box:' .. box, 'status') ~= 'stopped' and expires > at
  for _, card in ipairs(cards) do good = good and not kept[card] end
  if good then
    for _, card in ipairs(cards) do kept[card] = true end
    local value = { box = box, cards = cards, from = exact(from), expires = exact(math.min(expires, at + 600000)) }
    redis.call('HSET', P .. 'reserved', id, cjson.encode(value))
  end
end
redis.call('HINCRBY', P .. 'order', 'reserved', 1)
redis.call('HSET', P .. 'order', 'pressed', ARGV[3])
share_fairly(decoded(ARGV[3]).held ~= nil)
return 1
