"""Checking a release offline, without trusting whoever made it."""

from server.verification.evidence import read_extract, read_transcript
from server.verification.verify import ReleaseVerification, verify_release

__all__ = ["ReleaseVerification", "read_extract", "read_transcript", "verify_release"]
