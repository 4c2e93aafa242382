"""What is asked, by path."""
