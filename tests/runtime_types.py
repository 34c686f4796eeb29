"""The checker of annotations under pytest: beartype, with an int accepted where a float is due.

That is PEP 484's numeric tower and mypy's view; beartype's own default refuses ``lr=1``.
"""

from beartype import BeartypeConf, beartype

__all__ = ["check"]

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
