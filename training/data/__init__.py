"""From a table of the outside world to checked, split and fingerprinted training data."""
