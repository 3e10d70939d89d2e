"""The ``workerqueue`` command."""
