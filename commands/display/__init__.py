"""What a long command shows while it runs."""
