"""Recommend: the best items of the whole catalogue for a user, exactly."""
