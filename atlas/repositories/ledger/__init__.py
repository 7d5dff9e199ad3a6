"""The ledger of archived files."""
