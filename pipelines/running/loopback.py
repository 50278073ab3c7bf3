"""Keeps the ports of Beam's runners on this machine to the loopback interface.

While a job runs, Beam's runners open gRPC ports between their own parts. Nobody is asked for a password there, and
whoever reaches them may run code, yet Beam binds them to all interfaces. Their clients connect to `localhost`.
"""

import importlib
from typing import Any

_MODULES = (
    "apache_beam.runners.portability.fn_api_runner.worker_handlers",
    "apache_beam.runners.portability.abstract_job_service",
    "apache_beam.runners.portability.local_job_service",
    "apache_beam.runners.worker.worker_pool_main",
)
_ALL_INTERFACES = ("[::]:", "0.0.0.0:")


class _LoopbackGrpc:
    """Stands in for the module `grpc` in Beam's modules that open ports."""

    def __getattr__(self, name: str) -> Any:
        import grpc

        return getattr(grpc, name)

    def server(self, *arguments: Any, **options: Any) -> Any:
        """`grpc.server`, whose ports are those of 127.0.0.1."""
        import grpc

        server = grpc.server(*arguments, **options)
        bind = server.add_insecure_port

        def add_insecure_port(address: str) -> int:
            for prefix in _ALL_INTERFACES:
                if address.startswith(prefix):
                    address = f"127.0.0.1:{address.removeprefix(prefix)}"
            return int(bind(address))

        server.add_insecure_port = add_insecure_port  # type: ignore[method-assign]
        return server


def bind_to_loopback() -> None:
    """Makes the runners of this process open their ports on the loopback interface alone; once is enough."""
    for name in _MODULES:
        module: Any = importlib.import_module(name)
        if not isinstance(module.grpc, _LoopbackGrpc):
            module.grpc = _LoopbackGrpc()
