-- Takes the days whose partitions are gone out of the statistics.
select workerqueue.forget_dropped_days()
