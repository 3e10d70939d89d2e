-- Moves flows into the sums of the statistics; see workerqueue.fold_flows.
select workerqueue.fold_flows(%(limit)s) as folded
