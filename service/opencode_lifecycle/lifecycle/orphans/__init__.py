"""What bears our names without a row."""
