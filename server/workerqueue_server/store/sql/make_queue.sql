-- Makes a queue that nothing has named yet.
insert into workerqueue.queues (name) values (%(name)s) on conflict do nothing
