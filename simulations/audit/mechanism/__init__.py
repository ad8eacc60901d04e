"""Audit of a mechanism: a twin of a study is run on canaries and taken apart."""
