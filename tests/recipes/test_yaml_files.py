import os

import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.yaml_files import read_yaml


def test_plain_values_and_aliases_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {lr: 0.1}\nfirst: *base\nsecond: {<<: *base, seed: 1}")
    found = read_yaml(path)
    assert found["second"] == {"lr": 0.1, "seed": 1}
    assert found["first"] == {"lr": 0.1}
    path.write_text("")
    assert read_yaml(path) is None


ROWS = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
BOMB = "\n".join(["a0: &a0 [x]", *ROWS])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "too many values"),
        ("a: &a [*a]", "too many values"),
        ("[" * 5000, "is no YAML"),
        ("x" * 2**21, "larger than a megabyte"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2020-13-45", "month must be in"),
        ("{:", "is no YAML"),
    ],
)
def test_what_is_no_configuration_is_one_line(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none"):
        with pytest.raises(ConfigError, match="cannot read the configuration .*no such file"):
            read_yaml(tmp_path / name)
