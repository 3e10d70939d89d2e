-- These tokens are in use. Rows that somebody else is at are noted by him or the next time.
update workerqueue.tokens t
   set last_used_at = clock_timestamp()
  from (select token_id from workerqueue.tokens
         where token_id = any (%(token_ids)s)
           and (last_used_at is null or last_used_at < clock_timestamp() - interval '50 seconds')
           for update skip locked) due
 where t.token_id = due.token_id
