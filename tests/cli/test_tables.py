import sys

import pytest

from bayesprior.cli.tables import listing
from bayesprior.diagnostics.compare import compared_metrics
from bayesprior.prediction.metrics import METRICS, MetricRow
from bayesprior.report import build
from bayesprior.report.context import Heading

MODULES = ("bayesprior.prediction.metrics", "bayesprior.report.build")


@pytest.fixture(params=["imported", "source"])
def _state(request, monkeypatch):
    """Both ways to read a table: as it is now, and before its module is imported."""
    if request.param == "source":
        for name in MODULES:
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("_state")
def test_every_row_is_listed():
    directed = {n: row for n, row in METRICS.items() if row.larger_is_better is not None}
    for which, rows in {"metrics": directed, "compared metrics": compared_metrics()}.items():
        said = "; ".join(f"{name}: {row.meaning}" for name, row in rows.items())
        assert listing(which) == f"Metrics. {said}"
    headings = [h.title + (f" ({h.question})" if h.question else "") for h in build.SECTIONS]
    assert listing("headings") == f"Headings. {'; '.join(headings)}"
    assert "Calibration (Can the probabilities be trusted?)" in headings


def test_every_heading_with_a_verdict_says_its_question():
    assert all(bool(h.question) == bool(h.verdict) for h in build.SECTIONS)


def test_rows_added_at_run_time_are_listed(monkeypatch):
    doubt = MetricRow("doubt", "1 - confidence", lambda p: 1 - p.confidence, False)
    monkeypatch.setitem(METRICS, "doubt", doubt)
    assert listing("metrics").endswith("; doubt: 1 - confidence")
    assert "doubt" not in listing("compared metrics")  # without a margin
    weather = Heading("Weather", lambda context: [])
    monkeypatch.setattr(build, "SECTIONS", [*build.SECTIONS, weather])
    assert listing("headings").endswith("; Weather")
