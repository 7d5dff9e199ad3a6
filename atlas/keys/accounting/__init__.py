"""What is known of each key and spent of each quota, here and shared over all processes."""
