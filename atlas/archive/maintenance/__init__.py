"""What happens to files that the vault already holds."""
