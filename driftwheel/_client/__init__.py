"""What the blocking and the asynchronous client share; ``driftwheel.client`` is the way in."""
