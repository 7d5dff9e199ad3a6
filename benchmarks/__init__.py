"""Measurements, each printed as a ratio beside a peer or a limit of the same run: ``make bench``."""
