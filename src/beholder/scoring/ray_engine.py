"""Shards on a Ray cluster: an actor for each device, which does shards that it is handed and writes them itself.

No pixels and no embeddings pass through Ray: an actor is told numbers of shards and says what became of them. What reads,
decodes, embeds and writes is what runs on one machine (`scoring.worker`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import re
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import beholder
from beholder.errors import BeholderError, InputError, kind_and_text
from beholder.notices import say
from beholder.options import all_cores
from beholder.scoring.hand_out import Died, Handle, Workforce
from beholder.scoring.options import Options
from beholder.scoring.protocol import Command, Failed, Message, Open, with_options
from beholder.scoring.worker import ShardWorker

_OLDEST = (2, 50)
_LISTEN_S = 1.0
_CONNECT_S = 10.0
_CPUS = 2
"""Of an actor without a GPU, where nothing is said."""
_OWN_VARIABLES = "BEHOLDER_"
_KNOWN = ("num_cpus", "num_gpus", "memory")
_NOT_SO = {"CPU": "num_cpus", "GPU": "num_gpus", "object_store_memory": "memory"}


def resources_of(text: str | None) -> dict[str, float]:
    """What `--actor-resources` asks for: "num_gpus=1,num_cpus=8", or names of the cluster's own. Raises InputError."""
    found: dict[str, float] = {}
    for word in text.split(",") if text else ():
        name, is_, value = word.strip().partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            is_ = ""
        if not is_ or not name or not 0 <= found[name] < math.inf:
            raise InputError(f"--actor-resources {text}: {word.strip()!r} is not NAME=NUMBER, such as num_gpus=1")
    wrong = next((name for name in found if name in _NOT_SO), None)
    if wrong is not None:
        raise InputError(f"--actor-resources {text}: it is {_NOT_SO[wrong]} that is asked for, not {wrong}")
    return found


class RayWorkers(Workforce):
    """Actors of a cluster.

    Args:
        address: "auto" (the cluster that this machine is of), HOST:PORT, ray://HOST:PORT, or "local": one is started here.
        num_actors: how many; None: one for each GPU of the cluster, or for each node where there are none.
        resources: of each, as `resources_of` gives them.

    Raises:
        BeholderError: Ray is not there, or no cluster is.
    """

    most_starts, most_deaths = 10, 20
    """Nodes come and go."""

    def __init__(self, address: str, num_actors: int | None, resources: Mapping[str, float]) -> None:
        super().__init__()
        self.checks_visibility = True
        try:
            import ray
        except ImportError:
            raise BeholderError("--engine ray: Ray is not installed; pip install 'beholder[ray]'") from None
        version = tuple(int(number) for number in ray.__version__.split(".")[:2])
        if version < _OLDEST:
            raise BeholderError(f"--engine ray: Ray {ray.__version__} is too old; install 2.50 or newer")
        self._ray: Any = ray
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._connect(address)
        total = self._ray.cluster_resources()
        num_gpus = int(total.get("GPU", 0))
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        self.num_workers = num_actors or num_gpus or nodes
        self._resources = dict(resources) or (
            {"num_gpus": 1, "num_cpus": self._cpus_a_gpu()} if num_gpus else {"num_cpus": _CPUS}
        )
        if not any(self._has_room(node["Resources"]) for node in self._ray.nodes() if node["Alive"]):
            wanted = ", ".join(f"{name}={value:g}" for name, value in self._resources.items())
            say(f"no node of the cluster has {wanted}; waiting for one to come (see --actor-resources)")
        self._started: list[_ActorHandle] = []

    def _cpus_a_gpu(self) -> int:
        """How many processors there are for each GPU, where there are fewest."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        return max(1, min(int(node.get("CPU", 1) / node["GPU"]) for node in nodes))

    def _has_room(self, totals: Mapping[str, float]) -> bool:
        """Whether a node of these resources can hold an actor."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return all(totals.get(names.get(name, name), 0) >= value for name, value in self._resources.items())

    def _connect(self, address: str) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)  # what concerns the user is said by us
        how: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if address == "local":
            how["include_dashboard"] = False
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        is_main = threading.current_thread() is threading.main_thread()
        try:
            _knock(address)
            if is_main and address == "local":  # Ctrl-C is for this process: the cluster must not end first
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._ray.init(address=address, **how)
        except Exception as error:  # Ray's own, gRPC's, the system's
            text = " ".join(str(error).split())[:200]
            raise BeholderError(
                f"--engine ray: no cluster at {address} ({text}); start one (ray start --head), give its --address, or say "
                "--address local to start one on this machine; for one that asks for a token set RAY_AUTH_MODE=token"
            ) from None
        finally:
            for number, handler in handlers.items() if is_main else ():  # Ray puts its own in their place
                signal.signal(number, handler)

    def start(self, number: int, options: Options | None) -> Handle:
        """Ask for an actor; it says that it is open once the cluster has room for it."""
        actor = _ActorHandle(self, self._ray, self._resources, number)
        self._started.append(actor)
        actor.tell(Open(options))
        return actor

    def close(self) -> None:
        """End all actors, and the connection where it is ours."""
        for actor in self._started:
            actor.end()
        for actor in self._started:
            actor.stop()
        self._started.clear()
        if self._is_ours:
            with contextlib.suppress(Exception):
                self._ray.shutdown()


def _knock(address: str) -> None:
    """Look whether anybody listens at HOST:PORT, which Ray would try for minutes. Raises OSError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


class _ActorHandle(Handle):
    """An actor as the driver sees it; a thread asks it what it has to say."""

    def __init__(self, workers: RayWorkers, ray: Any, resources: Mapping[str, float], number: int) -> None:
        self.name = f"actor {number}"
        self._workers, self._ray = workers, ray
        own = {name: value for name, value in resources.items() if name in _KNOWN}
        custom = {name: value for name, value in resources.items() if name not in _KNOWN}
        settings = {name: value for name, value in os.environ.items() if name.startswith(_OWN_VARIABLES)}
        num_cpus = max(1, int(resources.get("num_cpus", 1)))
        try:
            kind = ray.remote(ShardActor).options(**own, resources=custom or None, max_concurrency=4, max_restarts=0)
            self._actor = kind.remote(str(Path.cwd()), settings, beholder.__version__, num_cpus)
        except (ValueError, TypeError) as error:
            raise InputError(f"--actor-resources: Ray refuses them: {' '.join(str(error).split())[:200]}") from None
        self._is_stopped = False
        self._listening = threading.Thread(target=self._listen, name="beholder-listen", daemon=True)
        self._listening.start()

    def tell(self, command: Command) -> None:
        """Tell it something; where it is gone, the thread that listens says so."""
        with contextlib.suppress(Exception):
            self._actor.tell.remote(command)

    def _listen(self) -> None:
        try:
            self.name = self._get(self._actor.where.remote())
            while not self._is_stopped:
                for message in self._get(self._actor.said.remote()):
                    self._workers.said.put((self, message))
        except Exception as error:  # the actor died, or its node, or the connection
            if not self._is_stopped:
                text, is_gone = _why(error)
                self._workers.said.put((self, Died(text, is_blameless=is_gone)))

    def _get(self, reference: Any) -> Any:
        """What an actor answers. Raises what Ray does when it is gone, and _Stopped."""
        while not self._is_stopped:
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                return self._ray.get(reference, timeout=_LISTEN_S)
        raise _Stopped

    def end(self) -> None:
        """End the actor; `stop` waits for it."""
        self._is_stopped = True
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)

    def stop(self) -> None:
        """End the actor. Nobody waits for it any more then: Ray must not be left while somebody does."""
        self.end()
        if threading.current_thread() is not self._listening:
            self._listening.join()


class _Stopped(Exception):  # noqa: N818 - no error
    """Nobody wants to know any more."""


def _why(error: Exception) -> tuple[str, bool]:
    """What ended an actor, on one line, and whether it is its node's doing."""
    text = str(error)
    if "No module named 'beholder'" in text or "No module named 'torch'" in text:
        return "beholder is not installed there as it is here; install the same on every node", False
    if "node has died" in text or "node has been" in text:
        return "its node is gone", True
    if type(error).__name__.startswith("RayTaskError"):  # raised in the actor, by `said`
        last = [line.strip() for line in text.splitlines() if line.strip()][-1:]
        return (last[0].removeprefix("RuntimeError: ")[:300] if last else "it failed"), False
    found = re.search(r"exit type: (\w+)", text, re.IGNORECASE)
    return f"its process ended ({found[1] if found else type(error).__name__})", False


class ShardActor:
    """A `ShardWorker` in an actor: `tell` gives it commands, `said` waits for what it has to say.

    Args:
        folder: the current folder of the command, from which relative paths count.
        settings: the program's own environment variables there.
        version: of the program there.
        num_cpus: what the actor was given of its node.
    """

    def __init__(self, folder: str, settings: Mapping[str, str], version: str, num_cpus: int) -> None:
        os.environ.update(settings)
        self._name = f"node {socket.gethostname()}, process {os.getpid()}"
        self._num_cpus = min(num_cpus, all_cores())
        self._said: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._broken = ""
        self._refused: BeholderError | None = None
        if version != beholder.__version__:
            self._refused = InputError(
                f"{self._name} has beholder {beholder.__version__}, this machine {version}; install the same on every node"
            )
        else:
            try:
                os.chdir(folder)
            except OSError as error:
                self._refused = InputError(f"{self._name} has no folder {folder} ({error.strerror}), from which paths count")
        self._worker = ShardWorker(self._said.put, self._break)

    def _break(self, text: str) -> None:
        self._broken = text
        self._said.put(None)

    def where(self) -> str:
        """A name for messages."""
        return self._name

    def tell(self, command: Command) -> None:
        """Obey a command, with this actor's share of its node."""
        if self._refused is not None:
            self._said.put(Failed(self._refused))
            return
        try:
            self._worker.obey(with_options(command, self._share))
        except BeholderError as error:
            self._said.put(Failed(InputError(f"{self._name}: {error}")))
        except Exception as error:  # nobody reads what a call raises
            self._break(kind_and_text(error))

    def _share(self, options: Options) -> Options:
        """The options with this actor's share of its node."""
        import torch

        on_gpu = torch.cuda.is_available()
        workers = options.workers if options.workers is not None else max(1, self._num_cpus if on_gpu else self._num_cpus // 2)
        return replace(options, workers=workers, num_threads=options.num_threads or (None if on_gpu else self._num_cpus))

    def said(self) -> list[Message]:
        """What was said since the last time; waits for it a while. Raises RuntimeError when the worker is of no more use."""
        found: list[Message] = []
        try:
            message = self._said.get(timeout=_LISTEN_S)
            while True:
                if message is None:
                    if found:
                        self._said.put(None)
                        return found
                    raise RuntimeError(self._broken)
                found.append(message)
                message = self._said.get_nowait()
        except queue.Empty:
            return found
