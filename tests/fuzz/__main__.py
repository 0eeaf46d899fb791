"""Feeds damaged inputs to every reader for as long as you like: `python -m tests.fuzz --minutes 60`.

Prints each failure with what replays it, then all failures by kind; its exit status is 1 if there were any.
"""

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

from tests.find_comfyui import find_comfyui
from tests.fuzz.process import HOST, LIBRARY, Process


def main() -> int:
    options = _options()
    modules = LIBRARY + HOST if find_comfyui() and not options.without_comfyui else LIBRARY
    if options.replay:
        reader, seed = options.replay.split(":", 1)
        with Process(modules) as process:
            fault = process.fault_in(reader, seed)
        print(fault or "Nothing is wrong.")
        return bool(fault)
    faults, count, began = defaultdict(list), 0, time.monotonic()
    with Process(modules) as process:
        for reader, seed in cases(options.seed, options.reader or process.readers):
            if count == options.cases or time.monotonic() - began > 60 * options.minutes:
                break
            count += 1
            if fault := process.fault_in(reader, seed):
                print(f"{reader}:{seed}  {fault}", flush=True)
                faults[kind_of(reader, fault)].append(f"{reader}:{seed}")
            if count % 100 == 0:
                print(f"{count} cases, {sum(map(len, faults.values()))} failures", file=sys.stderr, flush=True)
    print(f"\n{count} cases, {sum(map(len, faults.values()))} failures of {len(faults)} kinds, seed {options.seed}")
    for kind, found in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"{len(found):5}  {kind}  (--replay {found[0]})")
    return bool(faults)


def cases(seed: int, readers: list[str]) -> Iterator[tuple[str, str]]:
    """(reader, seed of a case), without end; each reader in turn."""
    number = 0
    while True:
        for reader in readers:
            yield reader, f"{seed}-{number}"
        number += 1


def kind_of(reader: str, fault: str) -> str:
    """A failure without what differs from case to case."""
    return f"{reader}: {fault.split(': ')[0]}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=-1, help="how many at most")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the whole run")
    parser.add_argument("--reader", action="append", help="one reader alone; repeatable")
    parser.add_argument("--replay", metavar="READER:SEED", help="one case again, as a failure names it")
    parser.add_argument("--without-comfyui", action="store_true", help="leave the nodes out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
