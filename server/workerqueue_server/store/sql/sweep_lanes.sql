-- Every lane, and what is available in it ahead of a cursor and behind it; see workerqueue.sweep_lanes.
select lane_id, queue, kind, priority, ahead, passed, behind, next_start
  from workerqueue.sweep_lanes(
    %(lanes)s, %(cursors)s::bigint[], %(starts)s::bigint[], %(limit)s)
