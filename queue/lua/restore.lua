-- restore(id, epoch, box, boot, lease in ms, fields as JSON, text) -> 1 owned by this box | 0 someone else knows better
-- These data are older than what the box did with the job since: its ledger corrects them.
local id, epoch, box, boot, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local fields, text = cjson.decode(ARGV[6]), ARGV[7]
local how = standing(id, box, epoch)
if how ~= 'older' then return how == 'ours' and 1 or 0 end
local at, state = present(), get(id, 'state')
-- A job of another installation is none of ours; one that was ended here meanwhile was ended by its user.
if fields.installation ~= server('installation') or ENDED[state] then return 0 end
if OWNED[state] then release(id) end
if state == 'queued' then unqueue(id) end
if state == '' then
  redis.call('ZADD', P .. 'live', fields.created_ms, id)
  redis.call('ZADD', P .. 'lookup', 0, 'i:' .. id, 0, 'n:' .. fields.name .. '\0' .. id)
end
fields.wish = get(id, 'wish')
set(id, fields)
if not OWNED[fields.state] then set(id, { state = 'preparing' }) end
set(id, { epoch = epoch, box = box, boot = boot, updated_ms = at })
promise(id, cjson.decode(fields.promises ~= '' and fields.promises or '[]'))
redis.call('ZADD', P .. 'leases', at + lease, id)
redis.call('SADD', P .. 'owned:' .. box, id)
note(id, at, '', text)
announce(id)
return 1
