"""Audit of a trained generator: membership attacks on a twin."""
