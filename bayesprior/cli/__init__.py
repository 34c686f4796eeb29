"""The command line: ``bayesprior COMMAND [options]``.

Nothing heavy is imported at module level, so that ``--help`` answers at once.
"""

from bayesprior.cli.main import main

__all__ = ["main"]
