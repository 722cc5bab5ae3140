"""A process to be killed: appends to the spool in a folder for ever, and prints each number that was acknowledged."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from shared.spool import Spool
from tests.unit.shared.events import numbered

LANES = 8  # appends under way at a time, so that commits are shared


async def main(folder: Path) -> None:
    spool, numbers = Spool(folder, max_bytes=2**40), count()
    await spool.open()

    async def lane() -> None:
        for number in numbers:
            await spool.append(numbered(number, size=200))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(lane() for _ in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
