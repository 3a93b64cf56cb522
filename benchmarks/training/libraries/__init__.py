"""Open libraries on the rating splits; what is here runs in the libraries' own environment (numpy and they are enough)."""
