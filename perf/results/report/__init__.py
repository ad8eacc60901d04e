"""Tables and pictures of the runs that are kept."""
