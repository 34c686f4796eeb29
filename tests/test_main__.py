import subprocess
import sys

from bayesprior.version import __version__


def test_the_module_is_the_command_line():
    command = [sys.executable, "-m", "bayesprior"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bayesprior {__version__}\n"
    assert subprocess.run([*command, "fti"], capture_output=True).returncode == 2
