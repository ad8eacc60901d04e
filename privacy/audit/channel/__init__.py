"""Inversion of gradients that were sent."""
