-- Every lane with the first available position in it (null: nothing available).
select lane_id, queue, kind, priority, first_position
  from workerqueue.sweep_lanes()
