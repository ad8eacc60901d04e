"""The command ``cloister``: one file per group of commands; parses, calls, prints."""
