"""One S3 client a process. Beam makes one for each file it touches, which costs 0.15 s of a core and a connection."""

import functools
import os
import threading
import types
from typing import Any


class _SharedSession:
    """Stands where Beam makes a session of boto3's; its clients, which threads may share, are made once.

    Once for each set of arguments and of AWS_ variables, so that a change of either is not overlooked. Credentials that
    expire are renewed by the client itself.
    """

    _lock = threading.Lock()
    _clients: dict[Any, Any] = {}

    def client(self, **arguments: Any) -> Any:
        import boto3

        settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        key = (tuple(sorted(arguments.items())), tuple(settings))
        with self._lock:
            if key not in self._clients:
                self._clients[key] = boto3.session.Session().client(**arguments)
            return self._clients[key]


@functools.cache
def share_clients() -> None:
    """From now on Beam's S3 calls of this process share their client; nothing happens where boto3 is not installed."""
    from apache_beam.io.aws.clients.s3 import boto3_client

    if boto3_client.boto3 is not None:
        boto3_client.boto3 = types.SimpleNamespace(session=types.SimpleNamespace(Session=_SharedSession))
