"""Driftwheel: train, serve, watch and retrain recommenders and churn models. The floor and the command line."""
