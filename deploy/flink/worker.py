#!/usr/bin/env python
"""The program that a Beam worker pool starts for each worker it is asked for.

Without it a pool starts workers that know nothing of the pipeline's options (object-store endpoints, log levels). It
does what the `boot` program of Beam's containers does, except that it installs nothing: the pool's environment
already has the code.
"""

import argparse
import os
import sys


def main() -> None:
    """Asks the runner for the job's options, then becomes the worker. Flags: those of Beam's container contract."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    for service in ("logging", "artifact", "provision", "control"):
        parser.add_argument(f"--{service}_endpoint", required=True)
    flags = parser.parse_args()
    os.environ["WORKER_ID"] = flags.id

    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
    from apache_beam.runners.worker import sdk_worker_main
    from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
    from google.protobuf import json_format, text_format

    channel = grpc.intercept_channel(grpc.insecure_channel(flags.provision_endpoint), WorkerIdInterceptor())
    provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
    info = provision.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest(), timeout=60).info
    channel.close()

    def descriptor(url: str) -> str:
        return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))

    os.environ["PIPELINE_OPTIONS"] = json_format.MessageToJson(info.pipeline_options)
    os.environ["LOGGING_API_SERVICE_DESCRIPTOR"] = descriptor(flags.logging_endpoint)
    os.environ["CONTROL_API_SERVICE_DESCRIPTOR"] = descriptor(flags.control_endpoint)
    os.environ["RUNNER_CAPABILITIES"] = " ".join(info.runner_capabilities)
    # The pool does not read what its workers print: an unread pipe would fill up and stop them.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
