"""Generated stubs of the service, its messages and the policy options (`workerqueue.v1`)."""
