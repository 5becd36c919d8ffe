"""aape-bench: evaluate audio encoders with honest splits, intervals and records.

`aape_bench.run(model="aape", task="tremolo")` does what the command `aape-bench run` does; see `aape_bench.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aape_bench.api import Results, run

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "run"]


def __getattr__(name: str) -> Any:
    # loaded when asked for: the command line and every plugin import this package
    if name in ("Results", "run"):
        from aape_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
