"""Commands that run a server, or look at its settings and database, on this machine."""
