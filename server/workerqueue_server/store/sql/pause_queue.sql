-- Pauses or resumes a queue.
update workerqueue.queues set paused = %(paused)s where name = %(name)s
returning name
