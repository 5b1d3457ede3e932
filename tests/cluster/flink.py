"""A Flink cluster of processes on this machine, with Beam's job server and pools of Python workers.

    python -m tests.cluster.flink

starts a JobManager and two TaskManagers of two slots, prints the options that run `vggish beam` on them, and stops them
when it is interrupted. It needs Java 11 or newer, and Maven, which downloads Flink into ~/.cache/vggish-tests.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

POM = Path(__file__).with_name("pom.xml")
CHECKSUMS = Path(__file__).with_name("jars.sha256")
CACHE = Path.home() / ".cache" / "vggish-tests"

JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_OPENED_PACKAGES = ("java.lang", "java.net", "java.io", "java.nio", "java.util", "java.util.concurrent", "java.time")
"""Packages of Java that Flink reads by reflection."""

_POOL = "worker-pool"
"""The host whose pool starts the workers of a TaskManager: to each, the one of its own."""
_START_SECONDS = 60


def fetch_jars() -> Path:
    """Returns a folder with Flink and Beam's job server, which Maven downloads once.

    Raises:
        RuntimeError: A file is missing or does not match its checksum.
    """
    checksums = CHECKSUMS.read_text()
    folder = CACHE / f"flink-{hashlib.sha256(checksums.encode()).hexdigest()[:12]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as new:
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={new}/jars"]
            subprocess.run(["mvn", "--batch-mode", "--quiet", "-Dstyle.color=never", "--file", POM, *goal], check=True)
            for line in checksums.splitlines():
                expected, name = line.split()
                if hashlib.sha256(Path(new, "jars", name).read_bytes()).hexdigest() != expected:
                    raise RuntimeError(f"{name} does not match its checksum")
            Path(new, "jars").rename(folder)
    return folder


class Cluster:
    """A Flink session cluster; a context manager that stops exactly the processes that it started.

    Args:
        folder: For the configuration, logs and temporary files of the processes.
        task_managers: Number of TaskManagers.
        slots: Number of slots of each.

    Attributes:
        processes: The running processes by name: job_manager, job_server, and task_manager_0, worker_pool_0 and so on.
    """

    def __init__(self, folder: Path, task_managers: int = 2, slots: int = 2) -> None:
        self._folder = folder
        self._task_managers, self._slots = task_managers, slots
        self._jars = fetch_jars()
        self._rpc, self._rest, self._blob, self._jobs, self._artifacts, self._workers = _free_ports(6)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def options(self) -> list[str]:
        """The options of Beam that run a pipeline on this cluster."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self._jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config={_POOL}:{self._workers}",
            "--environment_cache_millis=60000",
            f"--parallelism={self._task_managers * self._slots}",
        ]

    def __enter__(self) -> "Cluster":
        try:
            self.start_job_manager()
            for index in range(self._task_managers):
                self.start_task_manager(index)
                self.start_worker_pool(index)
            options = [f"--flink-master=localhost:{self._rest}", f"--artifacts-dir={self._folder}/artifacts"]
            ports = [f"--job-port={self._jobs}", f"--artifact-port={self._artifacts}", "--expansion-port=0"]
            self._start_java("job_server", JOB_SERVER, arguments=["--job-host=localhost", *ports, *options])
            self.wait_for_slots()
            self._wait_for_port("job_server", "localhost", self._jobs)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_job_manager(self) -> None:
        self._start_java("job_manager", JOB_MANAGER)

    def start_task_manager(self, index: int) -> None:
        hosts = self._folder / f"hosts_{index}"
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{_pool_address(index)} {_POOL}\n")
        self._start_java(f"task_manager_{index}", TASK_MANAGER, f"-Djdk.net.hosts.file={hosts}")

    def start_worker_pool(self, index: int) -> None:
        # The pool starts `python`, whichever is first in PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        address = f"{_pool_address(index)}:{self._workers}"
        self._start(f"worker_pool_{index}", [sys.executable, "-m", "tests.cluster.worker_pool", address], PATH=path)
        self._wait_for_port(f"worker_pool_{index}", _pool_address(index), self._workers)

    def kill(self, name: str) -> None:
        """Kills a process and its children at once."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def wait_for_slots(self) -> None:
        """Waits until all TaskManagers have registered."""
        self._wait("slots", lambda: self.ask("/overview")["slots-total"] >= self._task_managers * self._slots)

    def ask(self, path: str) -> Any:
        """Returns an answer of Flink's REST API, such as that to /overview."""
        with urllib.request.urlopen(f"http://localhost:{self._rest}{path}", timeout=5) as answer:
            return json.load(answer)

    def bytes_shuffled(self) -> int:
        """The bytes that the steps of the newest job have passed on to others."""
        newest = max(self.ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
        return sum(step["metrics"]["write-bytes"] for step in self.ask(f"/jobs/{newest['jid']}")["vertices"])

    def _start_java(self, name: str, main: str, *flags: str, arguments: Sequence[str] = ()) -> None:
        folder = self._folder / name
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        configuration = "".join(f"{key}: {value}\n" for key, value in self._configuration(folder).items())
        (folder / "flink-conf.yaml").write_text(configuration)
        if main != JOB_SERVER:
            arguments = ["--configDir", str(folder)]
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED_PACKAGES]
        command = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *opened, *flags]
        self._start(name, [*command, "-cp", f"{self._jars}/*", main, *arguments], FLINK_CONF_DIR=str(folder))

    def _configuration(self, folder: Path) -> dict[str, str | float]:
        return {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.memory.heap.size": "384m",
            "jobmanager.memory.off-heap.size": "128m",
            "blob.server.port": self._blob,
            "rest.address": "localhost",
            "rest.port": self._rest,
            "io.tmp.dirs": str(folder / "tmp"),
            "web.tmpdir": str(folder / "tmp"),
            # A lost TaskManager is noticed soon, and its work restarts.
            "heartbeat.interval": 1_000,
            "heartbeat.timeout": 10_000,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 3,
            "restart-strategy.fixed-delay.delay": "1 s",
            "taskmanager.host": "localhost",
            "taskmanager.numberOfTaskSlots": self._slots,
            "taskmanager.cpu.cores": float(self._slots),
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.task.heap.size": "384m",
            "taskmanager.memory.task.off-heap.size": "64m",
            "taskmanager.memory.managed.size": "128m",
            # A stage needs up to 512 buffers of 32 KiB for each slot.
            "taskmanager.memory.network.min": "256m",
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.jvm-metaspace.size": "192m",
            "taskmanager.memory.jvm-overhead.min": "128m",
            "taskmanager.memory.jvm-overhead.max": "128m",
        }

    def _start(self, name: str, command: list[str], **environment: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )

    def _wait_for_port(self, name: str, host: str, port: int) -> None:
        def is_open() -> bool:
            with socket.create_connection((host, port), timeout=1):
                return True

        self._wait(name, is_open)

    def _wait(self, what: str, is_ready: Any) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: see {self._folder / name}.log")
            with contextlib.suppress(OSError):
                if is_ready():
                    return
            time.sleep(0.2)
        raise TimeoutError(f"no {what} after {_START_SECONDS} s: see {self._folder}/*.log")


def _pool_address(index: int) -> str:
    return f"127.0.0.{index + 2}"


def _free_ports(count: int) -> list[int]:
    """Ports below those that the system gives to clients, which could take one before its process starts."""

    def is_free(port: int) -> bool:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("localhost", port))
            return True
        return False

    free = filter(is_free, random.sample(range(20_000, 32_000), 1_000))
    return [next(free) for _ in range(count)]


def is_available() -> bool:
    """Whether Java and Maven are installed."""
    return all(map(shutil.which, ("java", "mvn")))


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="flink-"))
    with contextlib.suppress(KeyboardInterrupt), Cluster(folder) as cluster:
        print(*cluster.options, flush=True)
        signal.pause()
    print(f"\nlogs: {folder}")


if __name__ == "__main__":
    main()
