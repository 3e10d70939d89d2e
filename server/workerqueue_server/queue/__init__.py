"""The rules of the queue: kinds, enqueueing, leasing, clocks. Knows no gRPC."""
