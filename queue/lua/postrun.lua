-- postrun(id, epoch, box, field, status as JSON, 1 if only of this box, more fields as JSON)
-- -> {1, ms of its user's last wish to try again} | {0} no longer its business | {2} this server knows less than the box
-- Writes how a post-run task stands. Of the whole job: written by the box on which it ended, under
-- the epoch of its end. Only of this box: under its name, by whoever ran the job before its present epoch or in it;
-- then `more` fills only fields that are empty.
local id, epoch, box, field, own = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[6] == '1'
local known, state = whole(get(id, 'epoch'), -1), get(id, 'state')
if epoch > known then return { 2 } end
if own then
  local all = decoded(get(id, field))
  all[box] = cjson.decode(ARGV[5])
  set(id, { [field] = cjson.encode(all) })
else
  if epoch ~= known or box ~= get(id, 'box') then return { 0 } end
  -- Its end is still to be told.
  if OWNED[state] then return { 2 } end
  if not ENDED[state] then return { 0 } end
  set(id, { [field] = ARGV[5] })
end
for name, value in pairs(cjson.decode(ARGV[7])) do
  if not own or get(id, name) == '' then set(id, { [name] = value }) end
end
announce(id)
return { 1, whole(get(id, 'retry_ms'), 0) }
