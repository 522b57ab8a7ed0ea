-- sign(id, spec, what it starts from, jobs before, signature, text) -> 'signed' | 'changed' | 'ended' | '' no such job
-- The signature is taken only for the job that its signer has seen.
local id, text = ARGV[1], ARGV[6]
local state = get(id, 'state')
if state == '' then return '' end
if ENDED[state] then return 'ended' end
if get(id, 'spec') ~= ARGV[2] or get(id, 'starts_from') ~= ARGV[3] or get(id, 'continues') ~= ARGV[4] then return 'changed' end
set(id, { signature = ARGV[5] })
note(id, now(), '', text)
if redis.call('HEXISTS', P .. 'waiting', id) == 1 then
  changed(id)
  call_boxes(id, 0, now())
end
announce(id)
return 'signed'
