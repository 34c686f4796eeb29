import json

import numpy as np
import xarray as xr
from report_items import column

from bayesprior.report.context import Context
from bayesprior.report.sections.closing import configuration, configured, decisions, missing
from bayesprior.report.thresholds import THRESHOLDS


def test_what_is_missing_is_named_with_its_reason(run):
    context = Context(run.tree(), {"trace": "no rows"})
    context.attempt("pictures", lambda: 1)
    [table] = missing(context)
    assert table.rows == [{"what": "trace", "why": "no rows"}]
    assert missing(Context(run.tree())) == []


def test_every_threshold_is_listed_with_its_source():
    [table] = decisions(Context(xr.DataTree()))
    assert table.is_folded
    assert table.rows == [threshold._asdict() for threshold in THRESHOLDS.values()]
    assert "doi:10.1007/s11222-023-10366-5" in " ".join(column(table, "source"))


def test_what_was_asked_for_and_the_trees_attributes_are_shown(run):
    attrs = {"configuration": {"lr": 0.1, "head": None}, "num_data": 30, "title": "Run"}
    tree = run.tree(attrs=attrs)
    tree.attrs["num_data"] = np.int64(30)  # as it comes out of a file
    context = Context(tree)
    found = configured(context)
    assert (found["lr"], found["head"]) == (0.1, None)
    assert found["tree"]["provenance"]["source"] == "unit test"
    assert "configuration" not in found["tree"]
    [text] = configuration(context)
    assert (text.is_code, text.title) == (True, "Options and provenance")
    told = json.loads(text.text)
    assert (told["lr"], told["tree"]["num_data"], told["tree"]["title"]) == (0.1, 30, "Run")
