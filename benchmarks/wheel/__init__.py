"""The loop that turns by itself: real traffic, drift, retrain, canary and promotion with nobody touching it."""
