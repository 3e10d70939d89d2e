"""gRPC: decode, validate, call the queue, map the error. No rule of the queue lives here."""
