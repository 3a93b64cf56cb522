"""What runs a graph. One contract, one file for each runtime."""
