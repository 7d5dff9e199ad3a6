"""Sorted, checksummed Parquet tables; nothing here knows a vault or a database."""
