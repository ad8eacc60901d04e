"""Privacy audits, the pure part: statistics, estimators and verdicts. What is attacked is passed in."""
