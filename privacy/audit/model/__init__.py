"""Membership attacks on a trained model."""
