"""The coordinator: runs of studies, rounds, and the release. It never sees a record."""
