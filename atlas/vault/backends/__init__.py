"""Stores of objects, one a provider: what they share is in `base`, what differs in a file each."""
