-- claim_first(box, boot, lease in ms, offers as JSON)
-- -> {'claimed', id, epoch} | {'gone'} | {'reserved'} | {'stale'} | {'regrouping'} | {'drained'}
-- offers: [[id, promises, GPUs as JSON, text, least epoch, ms that it takes at most or -1], …] in the order in which the box wants them; the first that
-- still waits becomes the box's. One step: its message leaves the shared list for the box's own, the index forgets it,
-- the epoch grows, owner and lease are written, VRAM and disk are promised.
local claimant, at = { box = ARGV[1], boot = ARGV[2], lease = tonumber(ARGV[3]) }, now_and_detect_restart()
local refused = no_claims(claimant.box, at)
if refused then return { refused } end
local kept = {}
local reserved = redis.call('HGETALL', P .. 'reserved')
for i = 1, #reserved, 2 do
  local value = decoded(reserved[i + 1])
  if whole(value.expires, 0) > at and type(value.cards) == 'table' then
    for _, card in ipairs(value.cards) do kept['gpu:' .. tostring(card)] = { reserved[i], tonumber(value.from) or -1 } end
  end
end

-- Whether a GPU of the offer is kept for another job, before whose start this one may not have ended.
local function is_kept(id, promises, at_most)
  for _, promise in ipairs(promises) do
    local other = kept[promise[1]]
    if other and other[1] ~= id and not (at_most >= 0 and at + at_most <= other[2]) then return true end
  end
  return false
end

local refused_one = false
for _, one in ipairs(cjson.decode(ARGV[4])) do
  local id = one[1]
  if get(id, 'state') == 'queued' and is_kept(id, one[2], tonumber(one[6]) or -1) then
    -- A box of an older version knows no other answer.
    refused_one = one[6] ~= nil
  elseif get(id, 'state') == 'queued' and over_budget(id) then
    local text = over_budget(id)
    set(id, { held = text })
    finish_or_requeue(id, 'waiting', 'held', 'held ' .. text, at)
  elseif get(id, 'state') == 'queued' then
    local offer = { promises = one[2], gpus = one[3], text = one[4], least_epoch = one[5] }
    -- All offers were judged by the same measurements.
    if stale(offer.promises) then return { 'stale' } end
    busy(claimant.box)
    return { 'claimed', id, take(id, claimant, offer, at) }
  end
  -- An older version claimed it, or ended it.
  if get(id, 'state') ~= 'queued' and redis.call('HEXISTS', P .. 'waiting', id) == 1 then unqueue(id) end
end
return { refused_one and 'reserved' or 'gone' }
