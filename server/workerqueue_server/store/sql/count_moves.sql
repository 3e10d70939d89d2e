-- How fast the queues move; see workerqueue.count_moves.
select queue, move, recent / recent_seconds as last_minute, hourly / hourly_seconds as last_hour
  from workerqueue.count_moves(%(queues)s)
