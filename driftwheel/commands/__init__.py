"""One file for each command group: each parses, calls one function and prints."""
