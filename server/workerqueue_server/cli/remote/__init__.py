"""Commands that work against any server, over its gRPC services alone."""
