"""Programs that run in an environment of their own, with packages of others; they import nothing from here."""
