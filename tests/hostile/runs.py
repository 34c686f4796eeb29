"""Hostile configurations, trees, pictures, options and folders."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from hostile.damage import LATIN, NASTY, damaged, mutated, pick
from hostile.judge import Case
from PIL import Image

from bayesprior.cli.commands import COMMANDS

QUIET = ["--progress", "false", "--device", "cpu"]


def config(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A run's config.yaml, results.json or trace.csv; or a file for --config."""
    run = field.copied("map", folder)
    bomb = folder / "ran"
    name = pick(rng, ("config.yaml", "config.yaml", "config.yaml", "results.json", "trace.csv"))
    path = run / name
    how = int(rng.integers(4))
    data = path.read_bytes()
    if how == 0 or name == "trace.csv":
        path.write_bytes(damaged(rng, data))
    elif name == "results.json":
        values = json.loads(data)
        path.write_text(json.dumps(mutated(rng, mutated(rng, values))))
    elif how == 1:
        path.write_text(_odd_yaml(rng, bomb))
    else:
        values = yaml.safe_load(data)
        for _ in range(how - 1):
            values = mutated(rng, values)
        if isinstance(values, dict) and rng.random() < 0.2:
            values["made_from"] = pick(
                rng,
                (
                    {"data": {"data": "os:system", "data_options": {"command": f"touch {bomb}"}}},
                    {
                        "model": {
                            "model": "os:system",
                            "model_options": {"command": f"touch {bomb}"},
                        }
                    },
                    {"prior": "/dev/zero", "data": {"data": str(field.npz)}},
                ),
            )
        path.write_text(yaml.safe_dump(values))
    argvs = [
        ["inspect", str(run)],
        ["predict", str(run), *QUIET],
        ["predict", str(run), "--split", "validation", *QUIET],
        ["compare", str(run), str(field.root / "other"), *QUIET],
        ["fit", "map", *field.fit(run)],
        ["report", str(run), "--rebuild"],
    ]
    if name == "config.yaml":
        argvs += [["fit", "map", *field.fit(run), "--config", str(path)]] * 2
    return Case(pick(rng, argvs), f"{name} {how}", never=bomb)


def _odd_yaml(rng: np.random.Generator, bomb: Path) -> str:
    aliases = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    aliases += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return pick(
        rng,
        [
            "\n".join(aliases),
            "a: &a [*a]",
            "[" * 5000,
            "{a: " * 3000,
            "x: " + "- " * 5000,
            f"!!python/object/apply:os.system ['touch {bomb}']",
            f"lr: !!python/object/apply:os.system ['touch {bomb}']",
            "lr: 2020-13-45",
            "lr: 2020-01-02",
            "lr: 9" + "9" * 6000,
            "lr: .nan",
            "lr: 1e999",
            "? [a, b]\n: c",
            "? {a: b}\n: c",
            "3: 4",
            "lr: !!binary aGk=",
            "lr: !!set {a, b}",
            "lr: !!float x",
            "lr: !!timestamp x",
            "seed: [1, 2]\nlr: {a: b}",
            "out: /dev/null/x",
            "data: [1]",
            "model_options: 3",
            "\x00",
            "'\\uD800': 1",
            "\u202e: 1",
            "",
            "---\n---\n",
            "%YAML 9.9\n---\na: 1",
            "just text",
            "x: " + "y" * 200_000,
            "".join(f"k{i}: 1\n" for i in range(5000)),
        ],
    )


def tree(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A netCDF file of predictions or of a report."""
    run = field.copied("map", folder)
    path = run / "predictive-test.nc"
    data = path.read_bytes()
    how = int(rng.integers(3))
    if how < 2:
        path.write_bytes(damaged(rng, data))
    else:
        found = xr.open_datatree(path, engine="h5netcdf").load()
        groups = {g: found[g].to_dataset() for g in found.children}
        name = pick(rng, sorted(groups))
        group = groups[name]
        variable = pick(rng, sorted(map(str, group.variables)))
        if rng.random() < 0.3:
            groups.pop(name)
        elif rng.random() < 0.3:
            groups[name] = group.drop_vars(variable)
        elif rng.random() < 0.3:
            groups[name] = group.isel({dim: slice(0, 1) for dim in list(group.sizes)[:1]})
        else:
            values = group[variable]
            odd = (
                pick(rng, (values * np.nan, -values, values + 1e30))
                if values.dtype.kind in "if"
                else (values)
            )
            groups[name] = group.assign({variable: odd}) if variable in group.data_vars else group
        attrs = mutated(rng, dict(found.attrs)) if rng.random() < 0.5 else dict(found.attrs)
        attrs = {str(k) or "x": v for k, v in attrs.items()} if isinstance(attrs, dict) else {}
        attrs = {k: v for k, v in attrs.items() if isinstance(v, str | int | float) and v == v}
        made = xr.DataTree.from_dict(groups)
        made.attrs = {
            k: v for k, v in attrs.items() if "\0" not in str(k) + str(v) and abs(len(str(v))) < 999
        }
        try:
            made.to_netcdf(path, engine="h5netcdf")
        except Exception:  # what cannot be written cannot be read
            path.write_bytes(damaged(rng, data))
    argvs = [
        ["inspect", str(path)],
        ["compare", str(run), str(field.root / "other"), *QUIET],
        ["report", str(run), "--rebuild"],
    ]
    which = int(pick(rng, (0, 0, 0, 1, 1, 1, 2)))  # a page takes seconds
    if which == 2:
        path.rename(run / "report.nc")
    return Case(argvs[which], f"tree {how}")


def pictures(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """Pictures for predictions, or among those of a data set."""
    place = folder / "pictures" / "train" / "cat"
    shutil.copytree(field.root / "pictures", folder / "pictures")
    names = (
        "x.png",
        "x.PNG",
        "x.jpg",
        "x.gif",
        "x.bmp",
        "x.tiff",
        "x.webp",
        "\x1b[2Jy.png",
        "[red].png",
        f"{LATIN}.png",
    )
    path = place / pick(rng, names)
    how = int(rng.integers(4))
    if how <= 1:
        path.write_bytes(_picture(rng, path))
        if how == 1 or rng.random() < 0.3:
            path.write_bytes(damaged(rng, path.read_bytes()))
    elif how == 2:
        header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR"
        side = int(pick(rng, (9_000, 13_000, 20_000, 2**31 - 1, 0)))
        body = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
        import zlib

        crc = zlib.crc32(b"IHDR" + body).to_bytes(4, "big")
        path.write_bytes(header + body + crc)
    else:
        pick(
            rng,
            [
                lambda: os.mkfifo(path),
                lambda: path.symlink_to(path),
                lambda: path.symlink_to("nowhere"),
                lambda: path.symlink_to("/dev/zero"),
                lambda: path.mkdir(),
                lambda: path.write_bytes(b""),
                lambda: path.write_text("<html>"),
                lambda: (place / "loop").symlink_to(place),
            ],
        )()
    which = int(rng.integers(3))
    if which == 0:
        argv = ["predict", str(field.root / "map"), str(path if path.exists() else place), *QUIET]
    elif which == 1:
        argv = ["predict", str(field.root / "map"), str(folder / "pictures"), *QUIET]
    else:
        few = ["--num_steps", "1", "--num_snapshots", "2", "--rank", "1", "--collect_every", "1"]
        model = [
            "--model",
            "small_conv",
            "--model_options",
            "norm=none",
            "--model_options.widths=[2]",
        ]
        argv = [
            "fit-source",
            "--data",
            str(folder / "pictures"),
            "--data_options.size",
            "8",
            *model,
        ]
        argv += [*few, *QUIET, "--out", str(folder / "out")]
    return Case(argv, f"picture {how}")


def _picture(rng: np.random.Generator, path: Path) -> bytes:
    mode = pick(rng, ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV"))
    size = pick(rng, ((8, 8), (8, 8), (1, 1), (5, 9), (300, 2)))
    image = Image.new(mode, size)
    try:
        image.save(path)
    except (OSError, ValueError):  # the format has no such mode
        image.convert("RGB").save(path)
    return path.read_bytes()


WORDS = (
    *("", "-1", "0", "nan", "inf", "-inf", "1e999", "1e300", "1e-300", "9" * 25, "-" + "9" * 25),
    *(
        "abc",
        "1.5",
        "true",
        "null",
        "[1]",
        "[",
        "{}",
        "{",
        "a=b",
        "=",
        "--",
        "-",
        "\x1b[2J",
        "a\0b",
    ),
    *(
        "é",
        "\u202e",
        "os:system",
        "../..",
        "/",
        "/dev/null",
        ".",
        "x" * 300,
        "x" * 5000,
        "[" * 3000,
    ),
    *("0x10", "1_000", "1,2", "None", "!!python/name:os.system", "&a [*a]", "2020-01-02", "'"),
)


def options(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A command that works but for one or two of its options."""
    root, out = field.root, str(folder / "out")
    source = ["--data", str(field.npz), *field.model, *QUIET]
    few = ["--num_steps", "2", "--num_snapshots", "2", "--rank", "1", "--collect_every", "1"]
    chain = ["--num_draws", "1", "--burn_in", "1", "--thin", "1", "--chains", "1", "--lr", "1e-4"]
    fit = field.fit(folder / "out")
    fit = fit[: fit.index("--num_steps")] + ["--out", out]
    commands = {
        "fit-source": [*source, *few, "--out", out],
        "make-prior": [*field.make_prior(folder / "out")[1:], "--shape", "zero", *field.data],
        "fit map": [*fit, "--num_steps", "2"],
        "fit swag": [*fit, *few],
        "fit sgld": [*fit, *chain],
        "fit sghmc": [*fit, *chain],
        "predict": [str(field.copied("map", folder)), *QUIET],
        "compare": [str(field.copied("other", folder)), str(root / "map"), *QUIET],
        "report": [str(root / "other"), "--rebuild"],
    }
    name = pick(rng, sorted(commands))
    argv = [*name.split(), *commands[name]]
    flags = [
        f
        for f in COMMANDS[name].options.__dataclass_fields__
        if f not in ("runs", "run", "new", "progress")
    ]
    for _ in range(int(rng.integers(1, 3))):
        flag = pick(
            rng, (*flags, *flags, *flags, "nosuch", "config", "data_options.size", "method")
        )
        value = pick(rng, WORDS)
        argv += pick(rng, ([f"--{flag}", value], [f"--{flag}={value}"], [f"--{flag}"]))
    return Case(argv, f"options of {name}")


def folders(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A run's folder with things missing, foreign or of another kind, and odd names for it."""
    run = field.copied(pick(rng, ("map", "sgld", "stopped/map")), folder)
    how = int(rng.integers(4))
    inside = sorted(p for p in run.rglob("*"))
    path = pick(rng, inside)
    if how == 0:
        for victim in rng.choice(len(inside), size=int(rng.integers(1, 4)), replace=False):
            _remove(inside[victim])
    elif how == 1:
        _remove(path)
        pick(
            rng,
            [
                lambda: path.mkdir(),
                lambda: os.mkfifo(path),
                lambda: path.write_bytes(b""),
                lambda: path.symlink_to(path),
                lambda: path.symlink_to("/dev/zero"),
                lambda: path.symlink_to("/nowhere/at/all"),
            ],
        )()
    elif how == 2:
        extra = run / pick(
            rng,
            (".lock", ".session", "error.log", "chain-00", "chain-07", "notes.txt", "report.nc"),
        )
        if not extra.exists():
            pick(
                rng,
                [
                    lambda: extra.mkdir(),
                    lambda: os.mkfifo(extra),
                    lambda: extra.write_text("x"),
                    lambda: extra.write_text('{"seconds": "\x1b[2J", "started": []}'),
                ],
            )()
    else:
        names = ("a[red]b", "two\nlines", "\x1b[2J", " ", "é\u202e", "-x", "a" * 255, "'", "$(x)")
        run = run.rename(run.with_name(pick(rng, (*names, LATIN))))
    argvs = [
        ["inspect", str(run)],
        ["predict", str(run), *QUIET],
        ["compare", str(run), str(field.root / "other"), *QUIET],
        ["report", str(run), "--rebuild"],
        ["fit", "map", *field.fit(run)],
        ["fit", "map", *field.fit(run)],
    ]
    return Case(pick(rng, argvs), f"folder {how}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


__all__ = ["NASTY", "config", "folders", "options", "pictures", "tree"]
