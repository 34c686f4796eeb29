"""``python -m bayesprior`` is the command line."""

import sys

from bayesprior.cli.main import main

__all__ = []

if __name__ == "__main__":
    sys.exit(main())
