"""What is fast, and by how much: every number is a ratio within one run."""
