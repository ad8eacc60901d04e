"""How close, how useful and how distinguishable synthetic records are; and the report that shows it."""
