"""Samples in PostgreSQL: partitions, restored spans, consistent snapshots."""
