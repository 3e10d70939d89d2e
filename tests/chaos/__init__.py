"""Real processes that are killed, frozen and replaced while they work."""
