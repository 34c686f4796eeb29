"""How large the package is: ``python tests/code_size.py`` prints it, `make lint` calls it.

A line counts if it holds code: blank lines, comments and docstrings do not.
"""

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "bayesprior"
FIRST_EDITION = 11_438  # lines of code before the second edition

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def code_lines(source: str) -> int:
    """Return the number of lines that hold code."""
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            texts |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - texts)


def package_size(package: Path = PACKAGE) -> int:
    """Return the package's lines of code."""
    return sum(code_lines(path.read_text()) for path in package.rglob("*.py"))


if __name__ == "__main__":
    size = package_size()
    print(f"bayesprior: {size:,} lines of code, {size / FIRST_EDITION:.2f} x the first edition's")
