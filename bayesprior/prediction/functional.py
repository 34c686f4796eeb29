"""A network as a function of drawn weights, with a policy for BatchNorm's statistics."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.inference.batch_norm import reestimate_
from bayesprior.inference.protocols import Draw
from bayesprior.inference.wrappers import plain_module
from bayesprior.tasks.protocols import Batch, Forward, inputs_forward, pair_forward
from bayesprior.weights.layout import ParameterLayout

__all__ = ["FunctionalNetwork"]

_POLICIES = ("draw", "module", "reestimate")
_OLD_NAMES = {"frozen": "module", "stored": "draw"}  # of the first edition


class FunctionalNetwork:
    """A module as a function of its weights; its parameters are never written to.

    Put the module into evaluation mode: in training mode BatchNorm updates the statistics.

    Parameters
    ----------
    model
        The module; a compiled or data-parallel one is taken out of its wrapper. Parameters that
        the layout lacks are its own.
    layout
        Names of the drawn weights, for draws without a layout of their own.
    forward
        Calls the module on a batch. It is given the module itself, whose parameters and buffers
        are the draw's for the time of the call.
    batch_norm
        Which BatchNorm statistics go with a draw: ``"draw"``, its own where it carries them, else
        the module's; ``"module"``, the module's; ``"reestimate"``, the averages over
        ``bn_loader`` under the draw's weights, weighted by examples.
    bn_loader
        Batches for ``"reestimate"``, as ``forward`` takes them, or tensors of inputs.
    device
        Where to compute; None is where the module is.

    Attributes
    ----------
    device
        Where batches must be.

    Raises
    ------
    LayoutMismatchError
        If the module lacks a parameter of the layout.
    ConfigError
        If ``batch_norm`` is none of the three, or ``bn_loader`` does not go with it.

    Examples
    --------
    >>> from bayesprior.tasks.protocols import inputs_forward
    >>> model = nn.Linear(2, 1)
    >>> layout = ParameterLayout.from_module(model)
    >>> network = FunctionalNetwork(model, layout, forward=inputs_forward)
    >>> state = network.state(Draw(0, 0, torch.tensor([1.0, 2.0, 3.0])))
    >>> network(state, torch.tensor([[10.0, 1.0]]))
    (tensor([[15.]]), None)
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        *,
        forward: Forward = pair_forward,
        batch_norm: str = "draw",
        bn_loader: Iterable[Batch] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        batch_norm = _OLD_NAMES.get(batch_norm, batch_norm)
        if batch_norm not in _POLICIES:
            raise ConfigError(
                f"batch_norm must be one of {', '.join(_POLICIES)}, got {batch_norm!r}"
                + nearest_name(batch_norm, _POLICIES)
            )
        if (batch_norm == "reestimate") != (bn_loader is not None):
            raise ConfigError('batch_norm="reestimate" and bn_loader= go together')
        model = plain_module(model)
        layout.parameters(model)  # a network of another kind is refused here
        first = next(model.parameters())
        self.device = first.device if device is None else torch.device(device)
        self._model, self._layout, self._forward = model, layout, forward
        self._batch_norm, self._bn_loader = batch_norm, bn_loader
        self._call = _Call(model, forward)
        self._fixed: dict[ParameterLayout, dict[str, Tensor]] = {}
        self._buffers = {name: b.to(self.device) for name, b in model.named_buffers()}

    def state(self, draw: Draw) -> dict[str, Tensor]:
        """Return parameters and buffers by name: views of the draw's weights, and the rest.

        Raises
        ------
        LayoutMismatchError
            If the module lacks a parameter of the draw's own layout.
        ConfigError
            If the draw carries statistics that the module does not have.
        DataError
            If ``bn_loader`` is empty.
        """
        layout = draw.layout or self._layout
        params = layout.parameters(self._model)
        views = layout.unflatten(draw.weights.to(self.device))
        drawn = {
            name: view.to(param.dtype)
            for (name, view), param in zip(views.items(), params, strict=True)
        }
        if layout not in self._fixed:
            ids = {id(param) for param in params}
            others = [(n, p) for n, p in self._model.named_parameters() if id(p) not in ids]
            self._fixed[layout] = {name: p.detach().to(self.device) for name, p in others}
        return {**self._fixed[layout], **drawn, **self._statistics(draw, layout)}

    def __call__(self, state: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Any]:
        """Return the outputs under a state, and the batch's targets or None.

        Raises
        ------
        DataError
            If the forward does not take such a batch or such outputs; the message names one
            that does.
        """
        named = {_Call.PREFIX + name: tensor for name, tensor in state.items()}
        outputs, targets = functional_call(self._call, named, (batch,))
        return outputs, targets

    def _run(self, module: nn.Module, batch: Batch) -> Any:
        call = inputs_forward if isinstance(batch, Tensor) else self._forward
        return call(module, batch)

    def _statistics(self, draw: Draw, layout: ParameterLayout) -> Mapping[str, Tensor]:
        if self._batch_norm == "reestimate":
            scratch = copy.deepcopy(self._model).to(self.device).eval()
            layout.load_(scratch, draw.weights.to(self.device))
            reestimate_(scratch, self._bn_loader or (), self._run)
            return dict(scratch.named_buffers())
        if self._batch_norm == "module":
            return self._buffers
        carried = draw.buffers
        if self._buffers.keys() <= carried.keys():  # the rest is of parts that were left behind
            carried = {name: carried[name] for name in self._buffers}
        for name, buffer in carried.items():
            own = self._buffers.get(name)
            if own is None or own.shape != buffer.shape:
                hint = nearest_name(name, self._buffers)
                what = f"lacks{hint}" if own is None else f"has in shape {tuple(own.shape)}"
                raise ConfigError(
                    f"draw {draw.index} of chain {draw.chain} carries the buffer {name!r} of shape "
                    f"{tuple(buffer.shape)}, which the model {what}; use batch_norm='module' or "
                    "'reestimate'"
                )
        return self._buffers | {name: b.to(self.device) for name, b in carried.items()}


class _Call(nn.Module):
    """Gives a forward the module itself, under the parameters of a functional call."""

    PREFIX = "network."

    def __init__(self, network: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.network, self.function = network, forward
        self.training = network.training

    def forward(self, batch: Batch) -> tuple[Any, Any]:
        return self.function(self.network, batch)
