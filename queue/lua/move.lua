-- move(id, to, source states as a JSON list, epoch or '', fields as JSON, reason, text) -> {1, state} | {0, state, epoch}
-- The only way for a state to change besides submit, claim, wish and sweep: compare-and-set on state and epoch.
local id, to, epoch, reason, text = ARGV[1], ARGV[2], ARGV[4], ARGV[6], ARGV[7]
local state = get(id, 'state')
local allowed = false
for _, source in ipairs(cjson.decode(ARGV[3])) do allowed = allowed or source == state end
if not allowed or (epoch ~= '' and epoch ~= get(id, 'epoch')) then return { 0, state, get(id, 'epoch') } end
set(id, cjson.decode(ARGV[5]))
return { 1, settle(id, to, reason, text, now()) }
