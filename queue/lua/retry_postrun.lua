-- retry_postrun(id, text) -> 1
-- Asks the boxes that have post-run tasks of the job to try them now; a box that is away reads it later.
local id, at = ARGV[1], now()
set(id, { retry_ms = at })
note(id, at, '', ARGV[2])
announce(id)
wake(get(id, 'box'), 'postrun')
for _, field in ipairs({ 'wandb_sync', 'swanlab_sync' }) do
  for box in pairs(decoded(get(id, field))) do wake(box, 'postrun') end
end
return 1
