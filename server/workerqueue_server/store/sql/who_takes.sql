-- The workers that take tasks of a queue and kind; see workerqueue.who_takes.
select worker_id, max_in_flight, draining, held, held_of_queue
  from workerqueue.who_takes(%(queue)s, %(kind)s)
