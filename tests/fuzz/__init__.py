"""Requests that nobody sends on purpose: the server must answer them all, and never with a fault of its own."""
