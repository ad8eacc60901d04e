"""Records: schema, codes, sources, and how they are parted among sites."""
