-- Ends the job that has a key; see workerqueue.remove_by_job_key.
select cancelled, released, lanes, positions
  from workerqueue.remove_by_job_key(%(job_key)s)
