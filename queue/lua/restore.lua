-- restore(id, epoch, box, boot, lease in ms, fields as JSON, text, 1 if it runs) -> 1 owned by this box | 0 someone else knows better
-- These data are older than what the box did with the job since, or were damaged: its ledger corrects them.
local id, epoch, box, boot, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local fields, text = cjson.decode(ARGV[6]), ARGV[7]
local owner = check_owner(id, box, epoch)
if owner ~= 'older' then return owner == 'ours' and 1 or 0 end
local at, state = now_and_detect_restart(), get(id, 'state')
-- What its user ended here meanwhile stays ended.
if ENDED[state] then return 0 end
-- An old ledger of another installation is none of ours. A run that lives has talked to this address all the time:
-- all that was here is lost, and newer than the loss is only what came since.
local ours = installation(fields.installation or id)
if fields.installation ~= ours and ARGV[8] ~= '1' then return 0 end
fields.installation = ours
if OWNED[state] then release(id) end
if state == 'queued' then unqueue(id) end
-- Somebody may have taken the record away, or the job out of these alone.
redis.call('ZADD', P .. 'live', 'NX', whole(fields.created_ms, at), id)
redis.call('ZADD', P .. 'lookup', 0, 'i:' .. id, 0, 'n:' .. tostring(fields.name) .. '\0' .. id)
-- A stop was meant for an owner of before; a cancel is meant for the job.
fields.wish = get(id, 'wish') == 'cancel' and 'cancel' or ''
-- What its user asked for since; what was answered, the ledger knows.
if whole(get(id, 'save_wish'), 0) > whole(fields.save_wish, 0) then fields.save_wish = get(id, 'save_wish') end
set(id, fields)
keep_start(id, true)
if not OWNED[fields.state] then set(id, { state = 'preparing' }) end
set(id, { epoch = epoch, box = box, boot = boot, updated_ms = at, claimed_ms = at, ran_ms = at })
promise(id, decoded(fields.promises or ''))
redis.call('ZADD', P .. 'leases', at + lease, id)
redis.call('SADD', P .. 'owned:' .. box, id)
note(id, at, '', text)
announce(id)
return 1
