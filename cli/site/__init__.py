"""``cloister site``: what the people at a site do."""
