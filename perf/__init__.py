"""Benchmarks against peers and against the limit, each one command."""
