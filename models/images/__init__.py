"""Generative models of images with a few columns beside them, one family per file."""
