"""What bounds a contribution and blurs it."""
