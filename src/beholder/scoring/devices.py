"""Several devices of this machine: one child process for each, which does shards that it is handed."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from beholder.errors import BeholderError, InputError
from beholder.options import MOST_WORKERS, all_cores
from beholder.scoring.hand_out import Died, Handle, Workforce
from beholder.scoring.options import Options
from beholder.scoring.protocol import Command, Open, with_options
from beholder.workers.child_process import ChildProcess, status_text

_MODULE = "beholder.scoring.worker"
_END_S = 5.0
_CPU = re.compile(r"cpu(?::(\d+))?")


def devices_of(text: str) -> list[str]:
    """The devices that `--devices` names: "all", "0,1,3", "cuda:0,cuda:2" or "cpu:4" (so many processes on the processor).

    Raises InputError.
    """
    hint = "say all, numbers of GPUs (0,1,3), or cpu:N for N processes on the processor"
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        found = _num_gpus()
        if not found:
            raise InputError("--devices all: torch sees no GPU here; use cpu:N for N processes on the processor")
        return [f"cuda:{number}" for number in range(found)]
    devices: list[str] = []
    for word in words:
        cpu = _CPU.fullmatch(word)
        if cpu is not None:
            if int(cpu[1] or 1) > MOST_WORKERS:
                raise InputError(f"--devices {text}: at most {MOST_WORKERS} processes")
            devices += ["cpu"] * int(cpu[1] or 1)
        elif re.fullmatch(r"(cuda:)?\d+", word):
            devices.append(f"cuda:{int(word.removeprefix('cuda:'))}")
        elif word == "mps":
            devices.append("mps")
        else:
            raise InputError(f"--devices {text}: {word or 'nothing'!r} is no device; {hint}")
    if not devices:
        raise InputError(f"--devices {text}: that is no device; {hint}")
    kinds = {device.partition(":")[0] for device in devices}
    if len(kinds) > 1:
        raise InputError(f"--devices {text}: the same pictures get other numbers on a GPU than on a processor; name one kind")
    gpus = [device for device in devices if device != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise InputError(f"--devices {text}: a device is named twice")
    return devices


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


class ChildWorkers(Workforce):
    """One child process for each device.

    Args:
        devices: as `devices_of` gives them.
    """

    def __init__(self, devices: list[str]) -> None:
        super().__init__()
        self._devices, self.num_workers = devices, len(devices)
        self._started: list[_Child] = []

    def start(self, number: int, options: Options | None) -> Handle:
        """Start the process of a device; it opens the tower there."""
        child = _Child(self, self._devices[number], number)
        self._started.append(child)
        child.tell(Open(options))
        return child

    def share(self, options: Options, number: int) -> Options:
        """The options of one process: its device, and its share of the cores."""
        device, cores = self._devices[number], max(1, all_cores() // self.num_workers)
        threads = options.num_threads or (cores if device == "cpu" else None)
        workers = options.workers if options.workers is not None else max(1, cores // 2 if device == "cpu" else cores)
        return replace(options, device=device, num_threads=threads, workers=workers)

    def close(self) -> None:
        """End all of them."""
        for child in self._started:
            child.stop()
        self._started.clear()


class _Child(Handle):
    """A child process. Its messages are read by a thread."""

    def __init__(self, workers: ChildWorkers, device: str, number: int) -> None:
        self.name = device if device != "cpu" else f"process {number} on the processor"
        self._workers, self._number = workers, number
        self._is_stopped = False
        try:
            self._process = ChildProcess(_MODULE, {"folder": str(Path.cwd())}, single_threaded=False)
        except (OSError, ValueError) as error:
            raise BeholderError(f"cannot start a process for {self.name}: {error}") from error
        self._connection = Connection(self._process.socket.detach())
        self._reading = threading.Thread(target=self._read, name="beholder-read-worker", daemon=True)
        self._reading.start()

    def tell(self, command: Command) -> None:
        """Tell it something, with the options of its device; where it is gone, its thread says so."""
        with contextlib.suppress(OSError):
            self._connection.send(with_options(command, lambda options: self._workers.share(options, self._number)))

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._workers.said.put((self, self._connection.recv()))
                self._process.trim()
        if not self._is_stopped:
            status = self._process.stop()
            words = "; ".join(filter(None, (status_text(status), self._process.stderr_tail())))
            self._workers.said.put((self, Died(f"its process ended ({words})")))

    def stop(self) -> None:
        """Kill it: what it has written whole stays, and the rest is done again."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._process.stop()
        self._reading.join(_END_S)
        if self._reading.is_alive():  # its process cannot be ended: a dead file system
            return
        self._connection.close()
        self._process.close()
