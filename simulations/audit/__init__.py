"""Audits of a twin: the real code of client and server on one machine, on canaries instead of records."""
