"""Has the workers inside this process hand over whole elements only.

Beam's local runner lets a second thread send what a worker has written so far, once a second. Where that thread comes
between the parts of one element, the element is torn, and the runner reads its halves as other elements: it loops
until memory is full, or goes on with wrong values. The slower the machine, and the longer an element takes to encode,
the likelier. Without that thread a worker sends after whole elements, when enough have gathered, and at the end.
"""

import importlib
from typing import Any


def send_whole_elements() -> None:
    """Stops the local runner of this process from sending by the clock; once is enough."""
    handlers: Any = importlib.import_module("apache_beam.runners.portability.fn_api_runner.worker_handlers")
    handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
