"""The results table of the project: what is trained, how it is judged, and how the runs become tables and plots."""
