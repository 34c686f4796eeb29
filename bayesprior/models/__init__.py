"""Networks with a backbone and a named head; torchvision is imported only when used."""

from bayesprior.models.heads import NoisyLinear, head_prefix, learn_noise, replace_head
from bayesprior.models.libraries import expected_images
from bayesprior.models.mobilenet import MobileNetV1
from bayesprior.models.small import MLP, SmallConvNet, SmallResNet
from bayesprior.models.torchvision_nets import torchvision_model
from bayesprior.models.zoo import TaskModel, get_model, model_for
from bayesprior.weights.state_dicts import load_weights, read_state_dict

__all__ = [
    "MLP",
    "MobileNetV1",
    "NoisyLinear",
    "TaskModel",
    "SmallConvNet",
    "SmallResNet",
    "expected_images",
    "get_model",
    "head_prefix",
    "learn_noise",
    "load_weights",
    "model_for",
    "read_state_dict",
    "replace_head",
    "torchvision_model",
]
