"""The tour: a server, two workers, one task of every kind, and the mishaps a queue is for."""
