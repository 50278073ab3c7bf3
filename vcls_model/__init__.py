"""Multi-label video classification: record schemas, metrics, models, training and serving.

import vcls_model

model = vcls_model.load("model")
labels = model.label("clip.mp4")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcls_model.serving.live.facade import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, with what it needs, at its first use: importing the package must stay cheap."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("vcls_model.serving.live.facade").load
