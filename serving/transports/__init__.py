"""Thin shells over the core: each turns its wire format into calls, and answers and errors back."""
