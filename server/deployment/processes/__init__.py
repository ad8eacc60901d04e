"""Programs that live as long as whoever started them, and no longer."""
