-- Forgets old requests that changed a task of another id.
select workerqueue.forget_replaced(%(limit)s)
