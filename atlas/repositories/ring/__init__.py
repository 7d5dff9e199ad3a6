"""The slow part of the watchlist: packed pages of ids whose order is the calendar; see docs/forever.md."""
