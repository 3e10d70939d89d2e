"""The ``workerqueue`` command.

``remote`` holds the operator's commands: they speak gRPC with a server and know nothing of how it
is made. ``local`` holds those that run a server or touch its database. Every command's module is
imported when it is called, so that ``workerqueue --help`` answers at once.
"""
