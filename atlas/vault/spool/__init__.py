"""What waits on this machine's disk until the store has it."""
