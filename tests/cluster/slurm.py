"""A Slurm cluster on this machine: two nodes of one core, with accounting, in a directory of its own.

``with Cluster() as cluster`` starts munged, MariaDB, slurmdbd, slurmctld and two slurmd, and stops them. Each
node is a PID namespace: SIGKILL to its first process takes all of the node with it, as a power cut does.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

NODES = ("n1", "n2")
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "unshare")
START_S = 60


def missing() -> list[str]:
    """What a cluster cannot be started without and is not here."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return lacking + ([] if os.geteuid() == 0 else ["root"])


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.1)


class Cluster:
    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rnnbench-slurm-"))
        self.root.chmod(0o755)  # munged's socket is for everybody
        self.env = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}
        self.env["PATH"] += ":/usr/sbin:/sbin"
        self.ports = dict(zip(("slurmctld", "slurmdbd", "mariadb", *NODES), _free_ports(3 + len(NODES)), strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------ starting and stopping

    def _start(self) -> None:
        self._write_configs()
        munge = [f"--{what}={self.root / name}" for what, name in _MUNGE_FILES.items()]
        self._daemon("munged", "--foreground", "--num-threads=10", *munge)
        wait_until((self.root / "munge.socket").exists, "munged")
        self._start_database()
        self._daemon("slurmdbd", "-D")
        wait_until(lambda: self._answers("sacctmgr", "--noheader", "list", "cluster"), "slurmdbd")
        self.call("sacctmgr", "--immediate", "add", "cluster", "local")
        self._daemon("slurmctld", "-D")
        wait_until(lambda: self._answers("scontrol", "ping"), "slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def _start_database(self) -> None:
        data = self.root / "database"
        make = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"]
        self.call(*make, "--auth-root-authentication-method=normal")
        here = [
            f"--datadir={data}",
            f"--socket={self.root / 'mariadb.socket'}",
            f"--init-file={self.root / 'init.sql'}",
        ]
        address = ["--bind-address=127.0.0.1", f"--port={self.ports['mariadb']}"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        self._daemon("mariadbd", "--no-defaults", "--user=root", *here, *address, *small)
        wait_until(lambda: _listens(self.ports["mariadb"]), "mariadbd")

    def _daemon(self, *command: str, name: str | None = None) -> None:
        name = name or command[0]
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running[name] = process

    def start_node(self, node: str) -> None:
        namespace = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        self._daemon(*namespace, "slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """SIGKILL to the slurmd of a node and to every process on it."""
        process = self._running.pop(node)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for node in NODES:
            if node in self._running:
                self.kill_node(node)
        while self._running:
            _, process = self._running.popitem()  # the last that was started first
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.root)

    # ------------------------------------------------------------ asking

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=START_S, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.env, capture_output=True, timeout=START_S, check=False).returncode == 0

    def logs(self) -> str:
        """The last lines that each daemon wrote."""
        tails = {path: path.read_text(errors="replace").splitlines()[-8:] for path in self.root.glob("*.log")}
        return "\n".join(f"--- {path.name}\n" + "\n".join(lines) for path, lines in tails.items())

    def wait_until_idle(self) -> None:
        """Wait until every node is there and has nothing to do."""
        idle = dict.fromkeys(NODES, "idle")
        wait_until(lambda: _pairs(self.call("sinfo", "--noheader", "--Node", "--format=%N %t")) == idle, "idle nodes")

    def jobs(self) -> dict[str, str]:
        """The running jobs, each with its node."""
        return _pairs(self.call("squeue", "--noheader", "--states=RUNNING", "--format=%i %N"))

    # ------------------------------------------------------------ configs

    def _write_configs(self) -> None:
        password = secrets.token_hex(8)
        auth = f"AuthType=auth/munge\nAuthInfo=socket={self.root / 'munge.socket'}"
        values = {**self.ports, "root": self.root, "auth": auth, "password": password, "host": _host()}
        (self.root / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.root / "slurm.conf").write_text(_SLURM_CONF.format(**values))
        (self.root / "slurmdbd.conf").write_text(_SLURMDBD_CONF.format(**values))
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.root / "init.sql").write_text(_INIT_SQL.format(**values))
        (self.root / "state").mkdir()
        for secret in ("munge.key", "slurmdbd.conf", "init.sql"):
            (self.root / secret).chmod(0o600)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _pairs(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines())


_MUNGE_FILES = {
    "socket": "munge.socket",
    "key-file": "munge.key",
    "pid-file": "munge.pid",
    "log-file": "munge.log",
    "seed-file": "munge.seed",
}

# cred_expire is also how long a job that was requeued waits before it is started again: 120 s by default.
_SLURM_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmUser=root
SlurmdUser=root
{auth},cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={root}/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_SLURMDBD_CONF = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
{auth}
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""

_INIT_SQL = """\
CREATE DATABASE IF NOT EXISTS slurm;
CREATE USER IF NOT EXISTS 'slurm'@'%' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'%';
"""
