"""The evaluation in several processes, one clip at a time each: small networks leave a CPU's threads waiting.

On two cores, two processes of one thread measured 1.4 times as many clips as one process of two threads.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..demo.settings import Settings
from ..errors import TavError
from ..world.protocol import WorldClip
from .evaluate import Outcome, evaluate
from .variants import Variant

_opened: list[Checkpoint] = []  # a worker's own


def evaluate_in_processes(
    open_checkpoint: Callable[[], Checkpoint],
    clips: Sequence[WorldClip],
    variants: Mapping[str, Variant],
    settings: Settings,
    processes: int,
    **options,
) -> Iterator[Outcome]:
    """What `evaluate` yields with the same options, each clip's outcomes once they are all there.

    open_checkpoint: picklable; called once in each process. The threads of this process are shared out among them.
    If one clip fails, those that are running are finished first, and their samples kept. Raises TavError if a process
    dies.
    """
    threads = max(1, torch.get_num_threads() // processes)
    work = partial(_outcomes, variants=dict(variants), settings=settings, options=options)
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    with ProcessPoolExecutor(processes, context, _open, (open_checkpoint, threads)) as pool:
        try:
            for outcomes in pool.map(work, clips):
                yield from pickle.loads(outcomes)
        except BrokenProcessPool as error:
            raise TavError(
                f"One of {processes} processes died, probably for lack of memory; use fewer. Finished samples are kept."
            ) from error


def _open(open_checkpoint: Callable[[], Checkpoint], threads: int) -> None:
    torch.set_num_threads(threads)
    _opened.append(open_checkpoint())


def _outcomes(clip: WorldClip, variants: Mapping[str, Variant], settings: Settings, options: Mapping) -> bytes:
    """Pickled here, with plain pickle: torch would send tensors through open files, of which there can be too many."""
    return pickle.dumps(list(evaluate(*_opened, [clip], variants, settings, **options)))
