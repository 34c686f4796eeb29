"""``predict``: a fit's model average on one split."""

from pathlib import Path
from typing import Any, Literal

from bayesprior.errors import ConfigError

__all__ = ["predict_command", "run_predict"]


def predict_command(
    run: str,
    *,
    split: Literal["test", "validation", "train"] = "test",
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: Literal["stored", "reestimate"] = "stored",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> None:
    """Predict a split with a fit's model average: accuracy, NLL, Brier, ECE.

    Writes predictive-<split>.nc (an ArviZ DataTree), and the metrics into results.json.

    Parameters
    ----------
    run
        Folder that fit wrote.
    split
        Which examples.
    num_draws
        Draws averaged; all that are stored, or 30 of a SWAG posterior, by default.
    batch_size
        Examples at a time.
    batch_norm
        BatchNorm statistics: those stored with each draw, or averages over the training split.
    seed
        Of the draws from a SWAG posterior.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show a progress bar.
    """
    arguments = dict(locals())
    from bayesprior.cli.inspection import show_results

    run_predict(**arguments)
    show_results(run, f"predict-{split}")


def run_predict(
    run: str | Path,
    *,
    split: str = "test",
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: str = "stored",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Do what `predict_command` does without printing; return the tree's file.

    Raises
    ------
    ConfigError
        If it is no fit's folder, or the split was predicted with other options.
    """
    from bayesprior.cli.loading import load_run
    from bayesprior.prediction.predict import predict
    from bayesprior.recipes import pick_device
    from bayesprior.recipes.runs import add_results, read_config, read_results
    from bayesprior.tasks.likelihoods import Categorical
    from bayesprior.tree.build import to_datatree
    from bayesprior.tree.files import save_tree

    read_config(run, "fit")
    stage, path = f"predict-{split}", Path(run) / f"predictive-{split}.nc"
    asked: dict[str, Any] = {"num_draws": num_draws, "batch_norm": batch_norm, "seed": seed}
    done = read_results(run).get(stage)
    if done is not None and path.exists():
        for key, value in asked.items():
            if done.get(key) != value:
                raise ConfigError(
                    f"{path} was made with {key} = {done.get(key)}, not {value}; delete it to "
                    "make it anew; nothing was overwritten"
                )
        return path
    fit = load_run(run)
    loader = fit.data.loader(split, batch_size)
    found = predict(
        fit.module.to(pick_device(device)),
        fit.posterior,
        loader,
        Categorical(),
        num_draws=num_draws,
        batch_norm=batch_norm,
        bn_loader=fit.data.loader("train", batch_size) if batch_norm == "reestimate" else None,
        progress=progress,
        seed=seed,
    )
    names = fit.data.class_names or None
    tree = to_datatree(test=found, class_names=names, mode="summary", attrs={"split": split})
    save_tree(tree, path)
    numbers = {"num_points": found.log_likelihood.shape[1], "draws": len(found.draw)}
    add_results(run, stage, {**found.metrics, **numbers, **asked})
    return path
