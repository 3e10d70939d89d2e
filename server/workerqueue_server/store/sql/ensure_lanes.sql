-- The lanes of the given queues, kinds and priorities; makes missing ones.
select lane_id, queue, kind, priority
  from workerqueue.ensure_lanes(%(queues)s, %(kinds)s, %(priorities)s)
