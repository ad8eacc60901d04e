"""Canaries, bounds and tests of one noisy step."""
