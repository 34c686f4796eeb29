"""What could not be reported, and why."""

from collections.abc import Callable
from typing import TypeVar

from matplotlib.figure import Figure

from bayesprior.errors import BayesPriorError
from bayesprior.report.document import Picture

__all__ = ["Notes"]

T = TypeVar("T")


class Notes(dict[str, str]):
    """``what -> why`` of everything that could not be reported."""

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        """Return what ``make`` returns, or note its error's one line and return None."""
        try:
            return make()
        except BayesPriorError as error:
            self[what] = str(error)
            return None

    def picture(self, title: str, caption: str, draw: Callable[[], Figure]) -> list[Picture]:
        """Return the one picture, or note why there is none."""
        figure = self.attempt(f"figure: {title}", draw)
        return [] if figure is None else [Picture(title, caption, figure)]
