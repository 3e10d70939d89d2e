"""Generated stubs of the built-in task kinds (`workerqueue.tasks.v1`)."""
