"""The evaluation in several processes, one clip at a time each: small networks leave a CPU's threads waiting.

On two cores, two processes of one thread measured 1.4 times as many clips as one process of two threads.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..demo.settings import Settings
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
    """What `evaluate` yields with the same options, in any order of the clips, each clip's as soon as it is whole.

    open_checkpoint: picklable; called once in each process. The threads of this process are shared out among them.
    """
    threads = max(1, torch.get_num_threads() // processes)
    work = partial(_outcomes, variants=dict(variants), settings=settings, options=options)
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    with ProcessPoolExecutor(processes, context, _open, (open_checkpoint, threads)) as pool:
        running = [pool.submit(work, clip) for clip in clips]
        try:
            for done in as_completed(running):
                yield from pickle.loads(done.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _open(open_checkpoint: Callable[[], Checkpoint], threads: int) -> None:
    torch.set_num_threads(threads)
    _opened.append(open_checkpoint())


def _outcomes(clip: WorldClip, variants: Mapping[str, Variant], settings: Settings, options: Mapping) -> bytes:
    """Pickled here, with plain pickle: torch would send tensors through open files, of which there can be too many."""
    return pickle.dumps(list(evaluate(*_opened, [clip], variants, settings, **options)))
