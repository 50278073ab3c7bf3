"""A pool of Python workers bound to one loopback address, as each TaskManager's machine would have one of its own.

Beam's own pool (`apache_beam.runners.worker.worker_pool_main`) binds every address of the machine, so two of them
cannot stand for two machines; and one that serves two TaskManagers mixes up their workers, which both number from 1.
"""

import argparse
import signal
import threading
from pathlib import Path


def main() -> None:
    """Serves until SIGTERM or SIGINT; then ends the workers it started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="host:port to listen on")
    flags = parser.parse_args()

    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2_grpc
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully
    from apache_beam.utils import thread_pool_executor

    executable = str(Path(__file__).with_name("worker.py"))
    pool = BeamFnExternalWorkerPoolServicer(use_process=True, container_executable=executable)
    # Without so_reuseport=0 two programs may share the port, and each would get some of the calls.
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(flags.address)
    server.start()

    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    end.wait()
    server.stop(0)
    for process in list(pool._worker_processes.values()):
        kill_process_gracefully(process)


if __name__ == "__main__":
    main()
