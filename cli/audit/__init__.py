"""``cloister audit``: experiments that try to break a statement, and their signed reports."""
