"""Two machines, as far as one kernel can play them: namespaces with a cable between, and a folder that both see."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.clusters.jobs import BARE, said
from tests.needs import need

_BOOT = """
hostname "$1" &&
mount -t tmpfs -o size=256m tmpfs /dev/shm &&
mount --bind "$2" /proc/sys/kernel/random/boot_id &&
ip link set lo up &&
echo up &&
exec cat
"""


class Host:
    """A machine with a network, a name, processes, a boot id and a memory (/dev/shm) of its own.

    It is one process, the first in its namespaces: with it go all others, the network and its cable.
    """

    def __init__(self, name: str, folder: Path) -> None:
        needed = ("unshare", "nsenter", "ip", "mount", "hostname")
        missing = [tool for tool in needed if shutil.which(tool) is None]
        need(not missing, f"no {', '.join(missing)}: two hosts are made of namespaces (apt install iproute2)")
        need(os.geteuid() == 0, "not root: two hosts are made of namespaces, which root may make")
        self.name = name
        boot = folder / f"{name}.boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        separate = ("--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
        self._machine = subprocess.Popen(
            ["unshare", *separate, "sh", "-c", _BOOT, "sh", name, str(boot)],
            stdin=subprocess.PIPE,  # at whose end `cat` ends, however this process ends, and with it all the rest
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started: list[subprocess.Popen[str]] = []
        assert self._machine.stdout is not None
        answer = self._machine.stdout.readline().strip()
        if answer != "up":
            self.end()
        need(answer == "up", f"namespaces are not permitted here: {answer}")
        task = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children")
        self.first = task.read_text().strip()
        """Number of its first process, as the outside sees it."""

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command on it; stderr goes where stdout does."""
        process = subprocess.Popen(
            ["nsenter", "--target", self.first, "--all", *command],
            env={**BARE, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *command: str, fails: bool = False, **environ: str) -> str:
        """What a command on it says, which has to end well, or has to fail."""
        return said(self.start(*command, **environ), fails=fails)

    def ip(self, *arguments: str) -> None:
        """Set its network up, from outside: only the network is entered, so that `netns` means our numbers."""
        subprocess.run(["nsenter", "--target", self.first, "--net", "ip", *arguments], check=True)

    def end(self) -> None:
        """Cut the power."""
        self._machine.kill()
        for process in (self._machine, *self._started):
            process.communicate()


def connect(one: Host, other: Host) -> None:
    """Lay a cable: `one` is 10.0.0.1, `other` 10.0.0.2. These addresses are theirs alone."""
    one.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other.first)
    for host, address in ((one, "10.0.0.1/24"), (other, "10.0.0.2/24")):
        host.ip("address", "add", address, "dev", "cable")
        host.ip("link", "set", "cable", "up")
