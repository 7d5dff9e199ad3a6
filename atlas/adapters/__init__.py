"""What agents call: thin façades over the repositories, in plain dicts."""
