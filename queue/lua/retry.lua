-- retry(id, text) -> 1
-- Its user wants what is left to do for the job tried now; the boxes that have it hear so, or read it later.
local id, at = ARGV[1], now()
set(id, { retry_ms = at })
note(id, at, '', ARGV[2])
announce(id)
wake(id)
return 1
