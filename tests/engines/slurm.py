"""A Slurm of one node, this machine, for the length of a `with` block: no systemd, munge, cgroups or accounting.

The node claims more cores and memory than there are, and two GPUs, so that the profile is tested as it is shipped.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SLURM_CONF = """
ClusterName=lmsae
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=2
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:2
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=2
"""
# Slurm wants a character device for each GPU; it does not look into them.
GRES_CONF = "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n"
# Snakemake's job steps drop every SLURM_* variable before they call srun, and with them where slurm.conf is.
COMMANDS = ("srun", "scontrol")
COMMAND = '#!/bin/sh\nSLURM_CONF={conf} exec {program} "$@"\n'


@contextlib.contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons, yield the environment variables that make them this process's Slurm, and stop them."""
    conf = folder / "slurm.conf"
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    conf.write_text(SLURM_CONF.format(folder=folder, controller=free_port(), daemon=free_port()))
    (folder / "gres.conf").write_text(GRES_CONF)
    for name in COMMANDS:
        wrapper = folder / "bin" / name
        wrapper.write_text(COMMAND.format(conf=conf, program=shutil.which(name)))
        wrapper.chmod(0o755)
    variables = {"SLURM_CONF": str(conf), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment = {**os.environ, **variables}
    commands = [["slurmctld", "-D", "-c", "-f", str(conf)], ["slurmd", "-D", "-c", "-N", "localhost", "-f", str(conf)]]
    with contextlib.ExitStack() as daemons:
        daemons.callback(kill_what_is_left, folder)
        for command in commands:
            output = daemons.enter_context(open(folder / f"{command[0]}.out", "w"))
            daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
            daemons.callback(stop, daemon)
        wait_until_idle(environment, folder)
        yield variables
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)


def kill_what_is_left(folder: Path) -> None:
    """Kill the processes that jobs have left: without cgroups, one that hangs outlives its job."""
    mark = f"{folder / 'bin'}{os.pathsep}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        said = subprocess.run(
            ["sinfo", "--noheader", "--partition=all", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        if said.stdout.strip() == "idle":
            return
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("slurm*.log"))
            raise TimeoutError(f"Slurm did not start: {said.stdout}{said.stderr}\n{logs}")
        time.sleep(0.2)


def stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
