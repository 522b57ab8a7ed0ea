-- claim(id, box, boot, lease in ms, promises as JSON, GPUs as JSON, text, least epoch)
-- -> {'claimed', epoch} | {'gone'} | {'stale'} | {'regrouping'} | {'drained'}
-- Kept for one release: the call of a version without an index, for workers that live on when the package is upgraded
-- below them. As claim_first with one job.
local id, box, promises, at = ARGV[1], ARGV[2], cjson.decode(ARGV[5]), now_and_detect_restart()
local refused = no_claims(box, at)
if refused then return { refused } end
if get(id, 'state') ~= 'queued' then
  unqueue(id)
  return { 'gone' }
end
if stale(promises) then return { 'stale' } end
local claimant = { box = box, boot = ARGV[3], lease = tonumber(ARGV[4]) }
local offer = { promises = promises, gpus = ARGV[6], text = ARGV[7], least_epoch = tonumber(ARGV[8]) }
return { 'claimed', take(id, claimant, offer, at) }
