"""Counts of what came of inputs made to break things: right, a clear error, or wrong with the first of them."""

from __future__ import annotations

import random
from collections import Counter


class Tally:
    """Counts verdicts; prints them; fails if one is wrong."""

    def __init__(self, what: str) -> None:
        self.what, self.counts, self.first = what, Counter(), []

    def right(self) -> None:
        self.counts["right"] += 1

    def clear(self) -> None:
        self.counts["clear error"] += 1

    def wrong(self, how: str) -> None:
        self.counts["wrong"] += 1
        self.first = [*self.first, how][:10]

    def error(self, error: BaseException, *names: str, case: str = "") -> None:
        """Clear: a line, of a kind that users catch, which names file or argument."""
        text = str(error)
        kind = isinstance(error, ValueError | TypeError)
        if kind and "\n" not in text and len(text) < 1000 and all(name in text for name in names):
            self.clear()
        else:
            self.wrong(f"{case}: {type(error).__name__}: {text[:300]}")

    def over(self) -> None:
        counts = {name: self.counts[name] for name in ("right", "clear error", "wrong")}
        print(f"\n{self.what}: {counts}")
        assert not self.first, "\n".join(self.first)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped (anywhere, or in the header), cut, a block removed, doubled, overwritten, or something appended."""
    damaged, at, length = bytearray(data), rng.randrange(len(data)), rng.randrange(1, 200)
    kind = rng.randrange(7)
    if kind < 2:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            damaged[rng.randrange(len(data) if kind else min(len(data), 500))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del damaged[at:]
    elif kind == 3:
        del damaged[at : at + length]
    elif kind == 4:
        damaged[at:at] = damaged[at : at + length]
    elif kind == 5:
        damaged[at : at + length] = rng.randbytes(length)
    else:
        damaged += rng.randbytes(length)
    return bytes(damaged)
