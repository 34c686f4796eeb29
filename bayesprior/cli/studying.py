"""``study``: methods, seeds and numbers of examples, from a description in YAML."""

from bayesprior import recipes
from bayesprior.cli.commands import Study, values_of
from bayesprior.cli.console import print_table, printable
from bayesprior.prediction.metrics import METRICS
from bayesprior.recipes.options import StudyOptions
from bayesprior.recipes.studying import Comparison
from bayesprior.storage import REPORT_PAGE

__all__ = ["show_comparison", "study"]

_SHOWN = ("accuracy", "nll", "ece")


def study(options: Study) -> None:
    """Run a study and print what it found."""
    found = recipes.study(**values_of(StudyOptions, options))
    for comparison in found.comparisons:
        show_comparison(comparison)
    print(f"The page, with figures: {printable(found.folder / REPORT_PAGE)}")


def show_comparison(comparison: Comparison) -> None:
    """Print the table of all methods and the sentences under it."""
    header = [
        "method",
        *(METRICS[name].label for name in _SHOWN),
        "gradients",
        "seconds",
        "selected",
    ]
    rows = []
    for row in comparison.rows:
        cells = []
        for name in _SHOWN:
            error, digits = row[f"{name}_se"], METRICS[name].format
            text = format(row[name], digits)
            cells.append(text if error is None else f"{text} ± {error:{digits}}")
        used, seconds = f"{row['evaluations']:,}", f"{row['seconds']:.1f}"
        rows.append([row["method"], *cells, used, seconds, row["selected"]])
    print(
        f"{comparison.num_data:,} training examples, mean ± standard error over the seeds; a fit's "
        "gradient evaluations and seconds"
    )
    print_table(header, rows)
    for sentence in comparison.sentences:
        print(f"* {printable(sentence)}")
