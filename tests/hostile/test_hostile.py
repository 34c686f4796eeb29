"""Seeded hostile inputs of every kind: right work, or one line; never a traceback.

``pytest -m long tests/hostile`` runs the long form: a thousand of each kind in this process, and
thirty of each in processes of their own. ``BAYESPRIOR_SEED`` gives other inputs.
"""

import os
import resource
import shutil
import time
import zlib

import numpy as np
import pytest
from hostile import files, judge, runs

# As a user has them; the other tests make errors of warnings.
pytestmark = pytest.mark.filterwarnings("default")

KINDS = {
    "prior": files.prior,
    "checkpoint": files.checkpoint,
    "weights": files.weights,
    "npz": files.npz,
    "config": runs.config,
    "nc": runs.tree,
    "images": runs.pictures,
    "options": runs.options,
    "folders": runs.folders,
}
LONG = pytest.mark.timeout(7200)  # every input has its own limit
MEMORY = 700  # MB that a kind may take above what stands; its inputs hold a few kB each


def cases(kind, count, field, folder):
    """Make one input after the other; each in a folder that goes with it."""
    base = int(os.environ.get("BAYESPRIOR_SEED") or 0)
    for number in range(count):
        rng = np.random.default_rng([base, zlib.crc32(kind.encode()), number])
        place = folder / f"{number}"
        place.mkdir()
        case = KINDS[kind](rng, field, place)
        case.label = f"{kind} {number} ({case.label})"
        yield case
        shutil.rmtree(place, ignore_errors=True)


def faults_of(kind, count, field, folder, monkeypatch):
    monkeypatch.chdir(folder)
    found, accepted = [], 0
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for case in cases(kind, count, field, folder):
        status, out, err = judge.run(case.argv)
        accepted += status == 0
        if told := judge.fault(case, status, out, err):
            found.append(told)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEMORY:
        found.append(f"{kind}: {grown:.0f} MB of memory were taken")
    seconds = time.process_time() - start
    print(f"{kind}: {count} inputs, {accepted} accepted, {len(found)} faults, {seconds:.0f} s")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_of_each_kind(kind, field, tmp_path, monkeypatch):
    found = faults_of(kind, 100, field, tmp_path, monkeypatch)
    assert not found, "\n".join(found)


@LONG
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_of_each_kind(kind, field, tmp_path, monkeypatch):
    found = faults_of(kind, 1000, field, tmp_path, monkeypatch)
    assert not found, "\n".join(found)


@LONG
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_processes_of_each_kind(kind, field, tmp_path):
    found = []
    for number, case in enumerate(cases(kind, 30, field, tmp_path)):
        place = tmp_path / f"answer{number}"
        place.mkdir()
        if told := judge.fault(case, *judge.run_alone(case.argv, place)):
            found.append(told)
    assert not found, "\n".join(found)
