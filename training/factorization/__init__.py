"""Factorizations that are solved rather than descended: alternating least squares, Gibbs sampling, and implicit feedback."""
