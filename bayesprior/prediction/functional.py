"""A network as a function of drawn weights, with a policy for BatchNorm's statistics."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprior.errors import ConfigError, DataError, nearest_name
from bayesprior.inference.protocols import Batch, Draw
from bayesprior.weights.layout import ParameterLayout

__all__ = ["FunctionalNetwork"]

_POLICIES = ("frozen", "stored", "reestimate")


class FunctionalNetwork:
    """A module as a function of its weights; its parameters are never written to.

    Put the module into evaluation mode: in training mode BatchNorm updates the statistics.

    Parameters
    ----------
    model
        The module. Parameters that the layout lacks are its own.
    layout
        Names of the drawn weights.
    batch_norm
        Which BatchNorm statistics go with a draw: ``"frozen"``, the module's own; ``"stored"``,
        those stored with the draw; ``"reestimate"``, the averages over ``bn_loader`` under the
        draw's weights.
    bn_loader
        Batches for ``"reestimate"``: inputs, or a tuple that begins with them.
    device
        Where to compute; None is where the module is.

    Attributes
    ----------
    device
        Where inputs must be.

    Raises
    ------
    LayoutMismatchError
        If the module lacks a parameter of the layout.
    ConfigError
        If ``batch_norm`` is none of the three, or ``bn_loader`` does not go with it.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> network = FunctionalNetwork(model, ParameterLayout.from_module(model))
    >>> state = network.state(Draw(0, 0, torch.tensor([1.0, 2.0, 3.0])))
    >>> network(state, torch.tensor([[10.0, 1.0]]))
    tensor([[15.]])
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        *,
        batch_norm: str = "frozen",
        bn_loader: Iterable[Batch] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_norm not in _POLICIES:
            raise ConfigError(
                f"batch_norm must be one of {', '.join(_POLICIES)}, got {batch_norm!r}"
                + nearest_name(batch_norm, _POLICIES)
            )
        if (batch_norm == "reestimate") != (bn_loader is not None):
            raise ConfigError('batch_norm="reestimate" and bn_loader= go together')
        params = layout.parameters(model)
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        self._model, self._layout = model, layout
        self._batch_norm, self._bn_loader = batch_norm, bn_loader
        self._dtypes = [param.dtype for param in params]
        drawn = {id(param) for param in params}
        fixed = [(n, p) for n, p in model.named_parameters() if id(p) not in drawn]
        self._fixed = {name: p.detach().to(self.device) for name, p in fixed}
        self._buffers = {name: b.to(self.device) for name, b in model.named_buffers()}

    def state(self, draw: Draw) -> dict[str, Tensor]:
        """Return parameters and buffers by name: views of the draw's weights, and the rest.

        Raises
        ------
        ConfigError
            If the draw's stored statistics are not those that the module has.
        DataError
            If ``bn_loader`` is empty.
        """
        views = self._layout.unflatten(draw.weights.to(self.device))
        drawn = {
            name: view.to(dtype)
            for (name, view), dtype in zip(views.items(), self._dtypes, strict=True)
        }
        return {**self._fixed, **drawn, **self._statistics(draw)}

    def __call__(self, state: Mapping[str, Tensor], inputs: Any) -> Tensor:
        """Return the module's outputs under a state.

        Raises
        ------
        ConfigError
            If they are not a tensor.
        """
        outputs = functional_call(self._model, dict(state), (inputs,))
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                f"the model returned {type(outputs).__name__}, expected a tensor; wrap the model "
                "so that it returns the logits or means"
            )
        return outputs

    def _statistics(self, draw: Draw) -> Mapping[str, Tensor]:
        if self._batch_norm == "frozen":
            return self._buffers
        if self._batch_norm == "reestimate":
            return self._reestimated(draw)
        if differing := draw.buffers.keys() ^ self._buffers.keys():
            raise ConfigError(
                f"the buffers of draw {draw.index} of chain {draw.chain} are not the model's "
                f"({min(differing)} is on one side only); use batch_norm='frozen' or 'reestimate'"
            )
        return {name: buffer.to(self.device) for name, buffer in draw.buffers.items()}

    def _reestimated(self, draw: Draw) -> dict[str, Tensor]:
        """Averages over ``bn_loader``; like `torch.optim.swa_utils.update_bn` without dropout."""
        scratch = copy.deepcopy(self._model).to(self.device).eval()
        self._layout.load_(scratch, draw.weights.to(self.device))
        for layer in scratch.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative average
                layer.train()
        empty = True
        for batch in self._bn_loader or ():
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            scratch(inputs.to(self.device))
            empty = False
        if empty:
            raise DataError("bn_loader gave no batches to estimate BatchNorm statistics from")
        return dict(scratch.named_buffers())
