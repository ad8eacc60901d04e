"""Many sites on one machine: in-memory grid, scenarios, Flower's own runtime."""
