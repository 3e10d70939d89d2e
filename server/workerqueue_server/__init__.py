"""The workerqueue server: gRPC in front, PostgreSQL behind, the queue's rules between them.

Layers, each importing only what stands to its right: `cli`, `app`, `rpc`, `queue`, `store`.
"""

__version__: str


def __getattr__(name: str) -> str:
    # Read when asked for: importlib.metadata would double the time `workerqueue --help` takes.
    if name == "__version__":
        from importlib.metadata import version

        return version("workerqueue")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
