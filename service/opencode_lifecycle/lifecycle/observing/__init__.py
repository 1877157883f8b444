"""What is known now: every watch, and the fleet in memory that they all tell."""
