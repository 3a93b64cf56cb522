"""The drift job on simulated traffic: what it calls where nothing changes, and what it finds where something does."""
