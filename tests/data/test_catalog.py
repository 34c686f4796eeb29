import subprocess
import sys

import pytest

from bayesprior.data.catalog import DATA, get_data
from bayesprior.errors import ConfigError
from bayesprior.registry import resolve


@pytest.mark.parametrize("name", DATA)
def test_short_names_lead_somewhere(name):
    assert resolve("data set", name, DATA).__name__ in (name, "from_npz")


def test_get_data_by_name_and_by_path():
    assert get_data("digits").num_data == 600
    assert get_data("bayesprior.data.glyphs:digits", num_test=297).num_data == 1100


def test_wrong_names_options_and_results():
    with pytest.raises(ConfigError, match="no data set 'cifar'.*did you mean 'cifar10'"):
        get_data("cifar")
    with pytest.raises(ConfigError, match="no option 'num_tests'; did you mean 'num_test'"):
        get_data("digits", num_tests=1)
    with pytest.raises(ConfigError, match="needs the option root"):
        get_data("mnist")
    with pytest.raises(ConfigError, match="gave CropFlip, not a DataBundle"):
        get_data("bayesprior.data.transforms:CropFlip", padding=1)


def test_importing_data_and_models_is_light():
    code = "import bayesprior.data, bayesprior.models, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torchvision", "sklearn", "matplotlib", "PIL", "scipy", "pyro"}
