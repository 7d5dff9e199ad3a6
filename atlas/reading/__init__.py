"""Cold files and the hot tier, read as one table."""
