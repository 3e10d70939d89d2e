"""How what the server answers is shown."""
