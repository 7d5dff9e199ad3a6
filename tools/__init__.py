"""What is made from the code: pages of the documentation."""
