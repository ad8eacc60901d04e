"""Attacks on synthetic records alone: what a release gives away to somebody who has nothing but the records in it."""
