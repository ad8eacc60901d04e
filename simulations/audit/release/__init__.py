"""Audit of a release: attacks on synthetic records."""
