"""The numbers that decide: each has a meaning, a source and a place where it decides."""

import re
from pathlib import Path

import pytest

from bayesprior.report import thresholds
from bayesprior.report.thresholds import THRESHOLDS, limit


def test_every_number_is_used_and_says_where_it_comes_from():
    folder = Path(thresholds.__file__).parent
    code = "".join(path.read_text() for path in sorted(folder.rglob("*.py")))
    used = set(re.findall(r'limit\(\s*"(\w+)"', code))
    graded = {
        f"{kind}_{end}" for kind in re.findall(r'_graded\("(\w+)"', code) for end in ("ok", "fail")
    }
    assert set(THRESHOLDS) == used | graded
    for row in THRESHOLDS.values():
        assert row.source == "our convention" or re.search(r"arXiv|doi|\(\d{4}\)", row.source)


def test_a_name_that_is_not_there():
    assert limit("rhat_warn") == THRESHOLDS["rhat_warn"].value
    with pytest.raises(KeyError):
        limit("rhat")
