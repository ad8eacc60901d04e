"""What both sides agree on: study, messages, errors, randomness, code fingerprint."""
