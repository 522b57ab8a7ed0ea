-- pace(shape, job, box, seconds a step, shapes that are kept) -> 1 | 0 its box has no card
-- Keeps how long a step of a shape took on a kind of card: the newest LATEST of each of KINDS kinds, and how many jobs
-- there were; what the last one tells again replaces what it told. The shapes that were measured longest ago go.
local shape, id, box, seconds, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local LATEST, KINDS = 5, 8
local at = now()
local card = card_of(box)
if card == '' or not seconds or not (seconds > 0) then return 0 end
local kinds = {}
for kind, one in pairs(decoded(hash_field('paces', shape))) do
  if type(kind) == 'string' and type(one) == 'table' and type(one.seconds) == 'table' then kinds[kind] = one end
end
local before = kinds[card] or { seconds = {}, jobs = 0 }
local same, latest = before.job == id, { seconds }
for place, old in ipairs(before.seconds) do
  if not (same and place == 1) and #latest < LATEST and type(old) == 'number' then latest[#latest + 1] = old end
end
kinds[card] = { seconds = latest, jobs = whole(before.jobs, 0) + (same and 0 or 1), job = id, box = box, at_ms = at }
local names = {}
for kind in pairs(kinds) do names[#names + 1] = kind end
table.sort(names, function(a, b) return whole(kinds[a].at_ms, 0) > whole(kinds[b].at_ms, 0) end)
for place = KINDS + 1, #names do kinds[names[place]] = nil end
keep_shape('paces', shape, kinds, at, most)
return 1
