"""What is done to a database by its owner: migrations, roles, and looking for wrong settings."""
