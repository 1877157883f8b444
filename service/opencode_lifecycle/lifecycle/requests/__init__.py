"""What callers ask for: handlers parse and present, what changes and what is shown is decided here."""
