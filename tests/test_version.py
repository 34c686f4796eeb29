import ast
from importlib import metadata
from pathlib import Path

from bayesprior import version


def test_the_version_is_read_without_importing_anything():
    tree = ast.parse(Path(version.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert version.__version__ == metadata.version("bayesprior")
