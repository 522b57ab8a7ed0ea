-- placement(ms after which a box that was not heard of is away, needs as JSON, names)
-- -> {1 if boxes of a version without this index are up, MiB of the largest GPU, place, …}
-- needs: [[GPUs, MiB of VRAM on each, 1 if it shares its cards, the boxes that its file chooses or {}, its shapes], …]
-- place: {boxes that have room now, that will have it later, that never will, up to `names` names of each as a list,
--         offers as JSON: what is known of its pace and price on the named boxes, see jobs/forecast.py}
-- Where jobs could run, by the GPUs of the boxes that are up. It takes as long with a thousand boxes as with ten, but for
-- a job whose file chooses boxes: then up to CHOSEN_FROM boxes are looked at.
local silent, needs, names = tonumber(ARGV[1]), cjson.decode(ARGV[2]), tonumber(ARGV[3])
local CHOSEN_FROM = 1000
local FORGOTTEN, LOOKED_AT, OLDER_LOOKED_AT = 100, 50, 10
local since = now() - silent
for _, box in ipairs(redis.call('ZRANGEBYSCORE', P .. 'cards:0', '-inf', '(' .. since, 'LIMIT', 0, FORGOTTEN)) do
  unplace(box)
end

local function place_chosen(gpus, vram, share, choice)
  local room, counts, told = share == 1 and gpus > 0 and 'shared:' or 'room:', { 0, 0, 0 }, { {}, {}, {} }
  local least = gpus > 0 and vram or 0
  for _, box in ipairs(redis.call('ZREVRANGE', P .. 'cards:0', 0, CHOSEN_FROM - 1)) do
    local function has(key) return (tonumber(redis.call('ZSCORE', P .. key .. gpus, box)) or -1) >= least end
    local kind = 3
    if allows(choice, gpus, box) then kind = has(room) and 1 or (gpus == 0 or has('cards:')) and 2 or 3 end
    counts[kind] = counts[kind] + 1
    if #told[kind] < names then table.insert(told[kind], box) end
  end
  return { counts[1], counts[2], counts[3], told[1], told[2], told[3] }
end

local function place(gpus, vram, share, choice)
  if next(choice or {}) then return place_chosen(gpus, vram, share, choice) end
  local cards, room = P .. 'cards:' .. gpus, P .. (share == 1 and gpus > 0 and 'shared:' or 'room:') .. gpus
  local least = gpus > 0 and vram or '-inf'
  local all, fit = redis.call('ZCARD', P .. 'cards:0'), redis.call('ZCOUNT', cards, least, '+inf')
  local free, told = redis.call('ZCOUNT', room, least, '+inf'), { {}, {}, {} }
  told[1] = redis.call('ZRANGEBYSCORE', room, least, '+inf', 'LIMIT', 0, names)
  local function add(kind, boxes, is_one)
    for _, box in ipairs(boxes) do
      if #told[kind] < names and is_one(box) then table.insert(told[kind], box) end
    end
  end
  local function above(key, box) return (tonumber(redis.call('ZSCORE', key, box)) or -1) >= (gpus > 0 and vram or 0) end
  if fit > free then
    add(2, redis.call('ZRANGEBYSCORE', cards, least, '+inf', 'LIMIT', 0, LOOKED_AT),
        function(box) return not above(room, box) end)
  end
  if all > fit then
    add(3, redis.call('ZREVRANGE', P .. 'cards:0', 0, LOOKED_AT - 1), function(box) return not above(cards, box) end)
  end
  return { free, math.max(0, fit - free), math.max(0, all - fit), told[1], told[2], told[3] }
end

-- Returns how fast steps of these shapes were by kind of card, of the newest that was measured on each.
local function paces_of(shapes)
  local kinds = {}
  for _, shape in ipairs(shapes) do
    for kind, one in pairs(decoded(hash_field('paces', shape))) do
      local newer = type(one) == 'table' and whole(one.at_ms, 0) > whole((kinds[kind] or {}).at_ms, -1)
      if type(kind) == 'string' and newer then kinds[kind] = one end
    end
  end
  return kinds
end

-- Returns what the job takes of each of these boxes of whose cards the pace is known; where there is none, of the boxes
-- that were measured, which may be switched off.
local function offers(shapes, told)
  local kinds, found = paces_of(shapes or {}), {}
  local function add(box, kind, pace, cards)
    local price = decoded(hash_field('prices', box))
    found[#found + 1] = { box = box, card = kind, box_cards = cards, pace = pace, price = price }
  end
  if not next(kinds) then return '' end
  for _, boxes in ipairs({ told[4], told[5] }) do
    for _, box in ipairs(boxes) do
      local kind, cards = card_of(box)
      if kinds[kind] then add(box, kind, kinds[kind], cards) end
    end
    if #found > 0 then return cjson.encode(found) end
  end
  for kind, pace in pairs(kinds) do
    local box = type(pace.box) == 'string' and pace.box or ''
    local _, cards = card_of(box)
    add(box, kind, pace, cards)
  end
  return cjson.encode(found)
end

-- Few: a box of an older version is rare, and this is asked at each submit.
local older = 0
for _, box in ipairs(redis.call('ZREVRANGEBYSCORE', P .. 'boxes', '+inf', since, 'LIMIT', 0, OLDER_LOOKED_AT)) do
  if redis.call('HEXISTS', P .. 'placed', box) == 0 and hash_field('box:' .. box, 'status') ~= 'stopped' then older = 1 end
end
local largest = tonumber(redis.call('ZREVRANGE', P .. 'cards:1', 0, 0, 'WITHSCORES')[2]) or 0
local answer = { older, largest }
for _, need in ipairs(needs) do
  local told = place(need[1], need[2], need[3], need[4])
  told[7] = offers(need[5], told)
  answer[#answer + 1] = told
end
return answer
