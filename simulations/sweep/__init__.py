"""Tuning: many trials of one study on records that may be looked at, and the best of them."""
