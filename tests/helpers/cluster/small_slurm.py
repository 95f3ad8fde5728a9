"""A real SLURM of two nodes on this machine, in a folder of its own, for as long as a test needs it."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from cluster.waiting import until

#: Their names are addresses, so that nothing has to know them.
NODES = ("127.0.0.1", "127.0.0.2")

CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
InactiveLimit=0
KillWait=20
SchedulerParameters=sched_interval=2,batch_sched_delay=0
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr={nodes[0]} Port={ports[1]} CPUs=16 RealMemory=1000 Gres=gpu:1
NodeName={nodes[1]} NodeHostname={host} NodeAddr={nodes[1]} Port={ports[2]} CPUs=16 RealMemory=1000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SmallSlurm:
    """Starts the daemons; ``stop`` ends them, and their jobs.

    Args:
        folder: of their files and of the jobs' output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        host = socket.gethostname().split(".")[0]
        conf = CONF.format(folder=self.folder, host=host, nodes=NODES, ports=free_ports(3))
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # that nobody opens
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{k}={self.folder}/munge.{v}" for k, v in files.items()))
        until(lambda: (self.folder / "munge.socket").exists(), "munged answers")
        self._daemon("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self._daemon("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", node)
        until(lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2", "two nodes idle")

    def _daemon(self, *words: str) -> None:
        with (self.folder / f"daemon-{len(self._daemons)}.log").open("wb") as log:
            environment = {**os.environ, **self.environment, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
            self._daemons.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))

    def call(self, *words: str, check: bool = True, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """A command of SLURM's; its output."""
        done = subprocess.run(
            words,
            env={**(os.environ if env is None else env), **self.environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout

    def stop(self) -> None:
        """End all jobs, then the daemons in the order opposite to that in which they were started."""
        if len(self._daemons) > 1:
            self.call("scancel", "--user=root", check=False)
            until(lambda: not self.call("squeue", "-h", check=False).strip(), "no job is left", seconds=60)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
