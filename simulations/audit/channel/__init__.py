"""Audit of the channel: what the coordinator can read off what sites send."""
