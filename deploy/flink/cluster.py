"""A Flink cluster on the loopback interface: JobManager, TaskManagers, pools of Python workers, Beam's job server.

Each is a process of its own, so that a test can kill one and see what a real cluster would do:

    JobManager ── TaskManager 0 ── worker pool 0 ── Python worker(s)
        │     └── TaskManager 1 ── worker pool 1 ── Python worker(s)
    job server ◀── the job's launcher (`--runner=FlinkRunner --job_endpoint=…`)

A job names one worker pool for all TaskManagers, as on a cluster where each machine has its own at the same port.
Here the machines are one: the name that the job gives resolves to another loopback address in each TaskManager.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from deploy.flink.install import DEFAULT_HOME, ROOT, is_installed, java, job_server_jar, lib_directory
from vcls_model.commands import JobError

HOST = "127.0.0.1"
_POOL_NAME = "beam-worker-pool"
_PACKAGES_OPENED = (
    "java.lang",
    "java.net",
    "java.io",
    "java.nio",
    "sun.nio.ch",
    "java.lang.reflect",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
)
_JAVA_FLAGS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _PACKAGES_OPENED]


class FlinkCluster:
    """Starts on `start` or on entering, stops every process it started on `stop`, on leaving and at interpreter exit.

    Args:
        task_managers: how many TaskManager processes.
        slots: task slots of each, that is, how many tasks it runs at once.
        home: where `deploy.flink.install` put Flink.
        run_directory: configuration, logs and process ids of this cluster; `home/run` by default. Two clusters at a
            time need two.
        environment: added to the environment of every process (object-store endpoints and keys, for instance).
        python: the interpreter of the Python workers.
        python_workers_each: Python processes of each TaskManager, among which its slots are shared out. The jobs'
            work on records runs in compiled code that lets other threads run, so one serves several slots.
        restart_attempts: how often Flink starts the lost tasks of a job again before it gives the job up.
        rest_port: of the JobManager's REST interface and web page; a free one by default.

    Raises:
        JobError: on start: Flink is not installed, the port is taken, or a process ended or did not answer in time; the
            message names the log file and quotes its end.
    """

    def __init__(
        self,
        task_managers: int = 2,
        slots: int = 2,
        *,
        home: Path = DEFAULT_HOME,
        run_directory: Path | None = None,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
        python_workers_each: int = 1,
        restart_attempts: int = 5,
        rest_port: int | None = None,
    ) -> None:
        self.task_managers = task_managers
        self.slots = slots
        self.home = home
        self.run_directory = run_directory or home / "run"
        self.python = python
        self.python_workers_each = python_workers_each
        self.restart_attempts = restart_attempts
        self._environment = dict(environment or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._wanted_rest_port = rest_port
        self.rest_port = self.job_port = self.pool_port = self._rpc_port = 0

    def __enter__(self) -> "FlinkCluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Start and stop.

    def start(self) -> None:
        """Starts every process and waits until all TaskManagers have registered their slots."""
        if not is_installed(self.home):
            raise JobError(f"Flink is not in {self.home}: run make flink-install first")
        stop_leftovers(self.run_directory)
        shutil.rmtree(self.run_directory, ignore_errors=True)
        for name in ("conf", "log", "tmp", "artifacts"):
            (self.run_directory / name).mkdir(parents=True)
        atexit.register(self.stop)
        self.rest_port = self._wanted_rest_port or free_port()
        if not port_is_free(self.rest_port):
            raise JobError(f"port {self.rest_port} on {HOST} is taken: stop what listens there or name another")
        self._rpc_port, self.job_port, self.pool_port = free_port(), free_port(), free_port()
        try:
            self.start_job_manager()
            for index in range(self.task_managers):
                self.start_task_manager(index)
            self._start_job_server()
            for index in range(self.task_managers):
                self.wait_for_pool(index)
            self.wait_for_slots(self.task_managers * self.slots)
            self._wait("job-server", lambda: not port_is_free(self.job_port))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process of the cluster, with its children, by process id. Does no harm when called again."""
        atexit.unregister(self.stop)
        for name in reversed(list(self._processes)):
            self.kill(name)
        with contextlib.suppress(FileNotFoundError):
            (self.run_directory / "pids.json").unlink()

    def start_job_manager(self) -> None:
        """Starts the JobManager (again: after `kill("job-manager")`, on the same ports, having forgotten all jobs)."""
        conf = self._write_configuration(
            "job-manager",
            {
                "jobmanager.memory.process.size": "1024m",
                # One that is killed is given up when two heartbeats in a row found nobody at its port; one that answers
                # nothing for a while is a process that waits for its share of a busy machine.
                "heartbeat.interval": "2000",
                "heartbeat.rpc-failure-threshold": "2",
                "heartbeat.timeout": "60000",
                "restart-strategy.type": "fixed-delay",
                "restart-strategy.fixed-delay.attempts": str(self.restart_attempts),
                # All attempts together must outlast the time in which a lost machine is found to be lost.
                "restart-strategy.fixed-delay.delay": "5 s",
                "cluster.evenly-spread-out-slots": "true",
                "slot.request.timeout": "120000",
            },
        )
        self._start_java(
            "job-manager",
            ["-Xmx512m"],
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            ["--configDir", str(conf)],
        )
        self._wait("job-manager", lambda: self._rest("/overview") is not None)

    def start_task_manager(self, index: int) -> None:
        """Starts one TaskManager and the pool of its Python workers: `task-manager-<index>`, `worker-pool-<index>`."""
        self._start(
            f"worker-pool-{index}",
            [self.python, "-m", "deploy.flink.worker_pool", f"--address={_pool_host(index)}:{self.pool_port}"],
        )
        name = f"task-manager-{index}"
        hosts = self.run_directory / "conf" / f"{name}.hosts"
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{_pool_host(index)} {_POOL_NAME}\n")
        conf = self._write_configuration(
            name,
            {
                "taskmanager.host": HOST,
                "taskmanager.bind-host": HOST,
                "taskmanager.numberOfTaskSlots": str(self.slots),
                "taskmanager.resource-id": f"{name}-{time.monotonic_ns()}",
                "taskmanager.cpu.cores": str(self.slots),
                "taskmanager.memory.task.heap.size": "512m",
                "taskmanager.memory.task.off-heap.size": "128m",
                "taskmanager.memory.framework.heap.size": "128m",
                "taskmanager.memory.framework.off-heap.size": "128m",
                "taskmanager.memory.network.min": "128m",
                "taskmanager.memory.network.max": "128m",
                "taskmanager.memory.managed.size": "256m",
                "taskmanager.memory.jvm-metaspace.size": "256m",
                "taskmanager.memory.jvm-overhead.min": "192m",
                "taskmanager.memory.jvm-overhead.max": "192m",
                "heartbeat.interval": "2000",
                "heartbeat.timeout": "60000",
                # Beam keeps Python workers from one stage to the next only where its own classes are Flink's too and
                # not those of each job again.
                "classloader.resolve-order": "parent-first",
            },
        )
        self._start_java(
            name,
            [
                "-Xmx640m",
                "-XX:MaxDirectMemorySize=512m",
                "-XX:MaxMetaspaceSize=256m",
                f"-Djdk.net.hosts.file={hosts}",
                f"-javaagent:{job_server_jar(self.home)}",  # which also puts it on the class path, behind Flink's jars
            ],
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            ["--configDir", str(conf)],
        )

    def repair(self) -> None:
        """Starts again what was killed, and waits until all slots are free."""
        if not self._lives("job-manager"):
            self.start_job_manager()
        for index in range(self.task_managers):
            if not (self._lives(f"task-manager-{index}") and self._lives(f"worker-pool-{index}")):
                self.kill_machine(index)
                self.start_task_manager(index)
                self.wait_for_pool(index)
        self.wait_for_slots(self.task_managers * self.slots, 120)

    def _lives(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _start_job_server(self) -> None:
        jar = job_server_jar(self.home)
        logging_jars = sorted(lib_directory(self.home).glob("log4j-*.jar"))
        self._start(
            "job-server",
            [
                java(),
                "-Xmx512m",
                *_JAVA_FLAGS,
                f"-javaagent:{jar}",
                self._log_flag("job-server"),
                "-cp",
                os.pathsep.join(map(str, [jar, *logging_jars])),
                "org.apache.beam.runners.flink.FlinkJobServerDriver",
                f"--flink-master={HOST}:{self.rest_port}",
                f"--job-port={self.job_port}",
                "--artifact-port=0",
                "--expansion-port=0",
                f"--job-host={HOST}",
                f"--artifacts-dir={self.run_directory / 'artifacts'}",
            ],
        )

    def _start_java(self, name: str, flags: list[str], main_class: str, arguments: list[str]) -> None:
        jars = sorted(map(str, lib_directory(self.home).glob("*.jar")))
        self._start(
            name,
            [java(), *flags, *_JAVA_FLAGS, self._log_flag(name), "-cp", os.pathsep.join(jars), main_class, *arguments],
        )

    def _log_flag(self, name: str) -> str:
        path = self.run_directory / "conf" / "log4j2.properties"
        if not path.exists():
            path.write_text(
                "rootLogger.level = INFO\nrootLogger.appenderRef.out.ref = Console\n"
                "appender.out.name = Console\nappender.out.type = CONSOLE\nappender.out.layout.type = PatternLayout\n"
                "appender.out.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n\n"
            )
        return f"-Dlog4j2.configurationFile={path}"

    def _write_configuration(self, name: str, settings: dict[str, str]) -> Path:
        directory = self.run_directory / "conf" / name
        directory.mkdir(exist_ok=True)
        shared = {
            "jobmanager.rpc.address": HOST,
            "jobmanager.rpc.port": str(self._rpc_port),
            "jobmanager.bind-host": HOST,
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": str(self.rest_port),
            "io.tmp.dirs": str(self.run_directory / "tmp"),
            "blob.client.socket.timeout": "60000",
            # The classes of Beam's runner come with each job: without this a restart reuses a closed class loader.
            "classloader.check-leaked-classloader": "false",
        }
        lines = [f"{key}: {value}" for key, value in {**shared, **settings}.items()]
        (directory / "flink-conf.yaml").write_text("\n".join(lines) + "\n")
        return directory

    def _start(self, name: str, command: list[str]) -> None:
        environment = {
            **os.environ,
            **self._environment,
            # The pool starts its workers through `env python`: that must be the interpreter with the project's
            # packages.
            "PATH": os.pathsep.join([str(Path(self.python).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        }
        with open(self.log_path(name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.run_directory / "tmp",
                env=environment,
                start_new_session=True,
            )
        pids = {key: process.pid for key, process in self._processes.items()}
        (self.run_directory / "pids.json").write_text(json.dumps(pids))

    def log_path(self, name: str) -> Path:
        """Where a process writes; the Python workers to that of their pool."""
        return self.run_directory / "log" / f"{name}.log"

    # What tests and benchmarks ask.

    def beam_flags(self, parallelism: int | None = None) -> list[str]:
        """The flags that send a job to this cluster; `parallelism` is all slots by default."""
        return [
            "--runner=FlinkRunner",
            f"--job_endpoint={HOST}:{self.job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config={_POOL_NAME}:{self.pool_port}",
            f"--parallelism={parallelism or self.task_managers * self.slots}",
            f"--sdk_worker_parallelism={self.python_workers_each}",
            # Otherwise each stage starts new workers, and each imports TensorFlow again. But less than the delay of a
            # restart: after a worker was lost, the next attempt must not find its place in the cache.
            "--environment_cache_millis=4000",
        ]

    def pid(self, name: str) -> int:
        """The process id of `job-manager`, `task-manager-<i>`, `worker-pool-<i>` or `job-server`."""
        return self._processes[name].pid

    def python_workers(self) -> list[int]:
        """Process ids of the Python workers that live now."""
        pools = [process.pid for name, process in self._processes.items() if name.startswith("worker-pool-")]
        return [child for pool in pools for child in _children(pool)]

    def kill_machine(self, index: int) -> None:
        """Kills a TaskManager, its pool and its Python workers at once: what losing their machine does."""
        self.kill(f"task-manager-{index}")
        self.kill(f"worker-pool-{index}")

    def kill(self, name: str) -> None:
        """Kills one process at once, with its children."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        _kill_group(process.pid)
        process.wait()

    def wait_for_pool(self, index: int) -> None:
        """Waits until the worker pool of a TaskManager answers."""
        self._wait(f"worker-pool-{index}", lambda: not port_is_free(self.pool_port, _pool_host(index)))

    def free_slots(self) -> int:
        """Task slots that no task holds."""
        overview = self._rest("/overview")
        return 0 if overview is None else int(overview["slots-available"])

    def wait_for_slots(self, count: int, seconds: float = 60) -> None:
        """Waits until `count` slots are free."""
        self._wait("task-manager-0", lambda: self.free_slots() >= count, seconds)

    def recoveries(self) -> int:
        """How often tasks were started again after a failure, since the JobManager was first started."""
        return self.log_path("job-manager").read_text(errors="replace").count("tasks will be restarted to recover")

    def busiest_python_worker(self) -> int:
        """Process id of the Python worker that has computed most: when there are results, one that made some."""
        return max(self.python_workers(), key=_cpu_ticks)

    def pids(self) -> list[int]:
        """Process ids of all that lives of the cluster, the Python workers included."""
        return [*(process.pid for process in self._processes.values()), *self.python_workers()]

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process now; `python-worker-<n>` for the workers."""
        found = {name: resident_bytes(process.pid) for name, process in self._processes.items()}
        return {
            **found,
            **{f"python-worker-{index}": resident_bytes(pid) for index, pid in enumerate(self.python_workers())},
        }

    def _rest(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.rest_port}{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def _wait(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        process = self._processes.get(name)
        end = time.monotonic() + seconds
        while not ready():
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > end:
                what = (
                    f"ended with exit {process.returncode}"
                    if ended and process
                    else f"was not ready in {seconds:.0f} s"
                )
                log = self.log_path(name)
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""
                raise JobError(f"{name} of the Flink cluster {what}; the end of {log}:\n{tail}")
            time.sleep(0.2)


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = HOST) -> bool:
    """Whether nothing listens on `port` of a loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def _pool_host(index: int) -> str:
    return f"127.0.0.{index + 2}"


def stop_leftovers(run_directory: Path) -> None:
    """Ends what a cluster of this directory left running because its own program was killed."""
    try:
        pids: dict[str, int] = json.loads((run_directory / "pids.json").read_text())
    except (FileNotFoundError, ValueError):
        return
    for pid in pids.values():
        # A process id may have been given to another program since: only one that names this directory or a pool is
        # ours.
        if str(run_directory) in _command_line(pid) or "deploy.flink.worker_pool" in _command_line(pid):
            _kill_group(pid)


def _kill_group(pid: int) -> None:
    """Kills a process that leads a session, its group, and its descendants in other groups."""
    for victim in [*_descendants(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield from _descendants(child)
        yield child


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(_status_fields(int(entry.name))[1]) == pid:
                    found.append(int(entry.name))
    return sorted(found)


def _status_fields(pid: int) -> list[str]:
    # Those after the program's name, which is in parentheses and may hold anything: state, parent, ...
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        user, system = _status_fields(pid)[11:13]
        return int(user) + int(system)
    return 0


def resident_bytes(pid: int) -> int:
    """The physical memory that a process holds; 0 when there is no such process."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
