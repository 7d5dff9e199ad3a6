"""What the columns of an export mean: names, values, times, and the rows they make."""
