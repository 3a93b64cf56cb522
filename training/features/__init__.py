"""The feature repository: what is in it, how its offline files are made, and what training reads of it."""
