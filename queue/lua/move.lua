-- move(id, to, source states as a JSON list, epoch or '', fields as JSON, reason, text, box or '')
-- -> {1, state} | {0, state, epoch} | {2} this server knows less than the owner
-- The only way for a state to change besides submit, claim, wish, hold, sweep and restore: compare-and-set on state and owner.
local id, to, epoch, reason, text, box = ARGV[1], ARGV[2], ARGV[4], ARGV[6], ARGV[7], ARGV[8]
local state = get(id, 'state')
if epoch ~= '' then
  local standing = standing(id, box, epoch)
  if standing == 'older' then return { 2 } end
  if standing == 'lost' then return { 0, state, get(id, 'epoch') } end
end
local allowed = false
for _, source in ipairs(cjson.decode(ARGV[3])) do allowed = allowed or source == state end
if not allowed then return { 0, state, get(id, 'epoch') } end
set(id, cjson.decode(ARGV[5]))
return { 1, settle(id, to, reason, text, now()) }
