"""Puts the server together from its settings and runs it."""
