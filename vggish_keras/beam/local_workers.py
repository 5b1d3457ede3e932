"""The worker processes of Beam's local runner."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
from apache_beam.utils.sentinel import Sentinel


@contextlib.contextmanager
def lost_workers() -> Iterator[list[RuntimeError]]:
    """Fails runs that lose a worker process, and collects what is known about each lost process.

    The error of the run is less specific, because a surviving worker may fail first for lack of the shared model.
    """
    lost: list[RuntimeError] = []
    register = WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
    register(functools.partial(_LocalWorker, lost))
    try:
        yield lost
    finally:
        register(SubprocessSdkWorkerHandler)


class _LocalWorker(SubprocessSdkWorkerHandler):
    """A worker process whose death fails the run.

    Beam 2.77 notices a dead worker only when its data stream breaks. It waits forever for a worker that died before its
    first bundle, when there is no such stream.
    """

    def __init__(self, lost: list[RuntimeError], command: bytes, *arguments: Any) -> None:
        super().__init__(command, *arguments)
        self._process = SubprocessSdkWorker(command, self.control_address, self.provision_info, self.worker_id)
        self._lost = lost

    def start_worker(self) -> None:
        self.worker_thread = threading.Thread(target=self._wait, name="run_worker")
        self.worker_thread.start()

    def _wait(self) -> None:
        try:
            self._process.run()
        except RuntimeError as error:  # the exit status is not 0
            self._lost.append(error)
            with contextlib.suppress(Exception):  # the error of a broken stream, which fails the run anyway
                self.data_conn.close()

    def stop_worker(self) -> None:
        # Beam sends this to connected workers only, and then waits for those that are still starting as well.
        self.control_conn.push(Sentinel.sentinel)
        super().stop_worker()
