"""What a worker process does first. It imports nothing heavy: the process that asked for it may be gone at once."""

from __future__ import annotations

import os
import signal
import threading
import time


def die_with(parent: int) -> None:
    """End this process as soon as its parent is gone, however that ended; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)
