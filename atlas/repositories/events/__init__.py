"""The event log, its cursors, and what is delivered to endpoints."""
