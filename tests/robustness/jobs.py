"""Programs that are killed: started fresh, or forked from a process that has imported all, which takes no time."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
#: A training of seconds.
QUICK_TRAIN = [
    "train-prior",
    "--num",
    "100",
    "--covering",
    "euclidean",
    "--restarts",
    "2",
    "--device",
    "cpu",
    "--quiet",
]
_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(
    ["topoprior.__main__", "topoprior.cli.train", "experiments.priors.sweep", "experiments.priors.compare"]
)


def start(command, folder, limit=None):
    """``python ...`` in a folder; ``limit``: bytes that a file may have, as on a full disk."""

    def full():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, preexec_fn=full, text=True,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


class Forked:
    """``main(arguments)`` of a module, in a folder and a process of its own, its output in the file ``said``."""

    def __init__(self, module, arguments, folder):
        folder.mkdir(exist_ok=True)
        self.said = folder.with_name(f"{folder.name}.said")
        self.process = _forked.Process(target=_main, args=(module, arguments, folder, self.said))
        self.process.start()

    def wait(self, seconds, meanwhile=lambda: None):
        """Whether it ended by itself within so many seconds; ``meanwhile`` is called all the time."""
        until = time.monotonic() + seconds
        while self.process.is_alive() and time.monotonic() < until:
            meanwhile()
            self.process.join(min(0.02, max(0.0, until - time.monotonic())))
        return not self.process.is_alive()

    def kill(self):
        self.process.kill()
        self.process.join()

    @property
    def status(self):
        return self.process.exitcode


def _main(module, arguments, folder, said):
    os.chdir(folder)
    with said.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = importlib.import_module(module).main(arguments)
    sys.exit(status)
