"""What every command needs, imported once for all processes of a test."""

import bayesprior.cli.fitting
import bayesprior.cli.reporting
import bayesprior.cli.studying  # noqa: F401
