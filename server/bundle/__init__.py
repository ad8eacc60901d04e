"""A bundle for whoever has to judge a release: documents, evidence, and a list of the software."""

from server.bundle.bundle import write_bundle
from server.bundle.reports import GivenReport, read_report

__all__ = ["GivenReport", "read_report", "write_bundle"]
