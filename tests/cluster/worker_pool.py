"""A pool of Beam's Python workers, as `apache_beam.runners.worker.worker_pool_main`, but on one address only.

    python -m tests.cluster.worker_pool 127.0.0.2:50000

TaskManagers on one machine need a pool each, because they give their workers the same names.
"""

import sys

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance


def main() -> None:
    server = grpc.server(shared_unbounded_instance())
    server.add_insecure_port(sys.argv[1])
    pool = BeamFnExternalWorkerPoolServicer(use_process=True, data_buffer_time_limit_ms=-1)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
