"""Make docs/results.md and its pictures of the runs that are kept: ``python -m perf.results``."""

import sys

from perf.results.report.page import DOCS, write
from protocol.errors import CloisterError


def main() -> None:
    """Write the files and name them."""
    try:
        for path in write():
            print(path.relative_to(DOCS.parent))
    except CloisterError as error:
        sys.exit(f"{error.problem} {error.remedy}")


if __name__ == "__main__":
    main()
