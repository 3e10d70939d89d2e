"""Payload messages of the built-in task kinds, by version."""
