"""``cloister sweep``: tune a study on records that may be looked at, or pay for looking."""
