"""Files of any shape, read into rows as they stand."""
