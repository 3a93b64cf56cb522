"""What watches: metrics, windows, drift, quality, the canary judge, the ledger and the retrain policy."""
