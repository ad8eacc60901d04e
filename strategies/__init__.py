"""Ways of combining contributions, one per file."""
