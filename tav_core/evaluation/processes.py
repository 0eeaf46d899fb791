"""The evaluation in several processes, one clip at a time each.

Small networks leave a CPU's threads waiting, and a GPU for its kernels to be launched. On two cores, two processes of
one thread measured 1.4 times as many clips as one process of two threads.
"""

import multiprocessing
import pickle
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import cv2
import torch

from ..checkpoints.checkpoint import Checkpoint
from ..demo.settings import Settings
from ..errors import TavError
from ..world.protocol import WorldClip
from .evaluate import Outcome, evaluate
from .variants import Variant

LOOK_EVERY = 0.2  # seconds, for what the processes have done


@dataclass
class _Worker:
    """What a process has: the checkpoint, and where its outcomes go."""

    checkpoint: Checkpoint
    outcomes: "multiprocessing.Queue[bytes]"


_worker: list[_Worker] = []


def evaluate_in_processes(
    open_checkpoint: Callable[[], Checkpoint],
    clips: Sequence[WorldClip],
    variants: Mapping[str, Variant],
    settings: Settings,
    processes: int,
    **options,
) -> Iterator[Outcome]:
    """Yields what `evaluate` does with the same options as soon as it is ready, so that the clips are mixed.

    open_checkpoint: picklable; called once in each process. The threads of this process are shared out among them.
    If one clip fails, those that are running are finished first, and their samples kept. Raises TavError if a process
    dies.
    """
    threads = max(1, torch.get_num_threads() // processes)
    work = partial(_send_outcomes, variants=dict(variants), settings=settings, options=options)
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    outcomes = context.Queue()
    with ProcessPoolExecutor(processes, context, _open, (open_checkpoint, threads, outcomes)) as pool:
        futures = [pool.submit(work, clip) for clip in clips]
        try:
            yield from _received(outcomes, futures)
            for future in futures:
                if not future.cancelled():
                    future.result()
        except BrokenProcessPool as error:
            raise TavError(
                f"One of {processes} processes died, probably for lack of memory; use fewer. Finished samples are kept."
            ) from error
        finally:
            _cancel(futures)


def _received(outcomes: "multiprocessing.Queue[bytes]", futures: Sequence[Future[int]]) -> Iterator[Outcome]:
    """Yields outcomes until all futures are done, and those that were successful have been heard out."""
    received = 0
    while True:
        try:
            yield pickle.loads(outcomes.get(timeout=LOOK_EVERY))
            received += 1
            continue
        except queue.Empty:
            pass
        done = [future for future in futures if future.done() and not future.cancelled()]
        failed = any(future.exception() for future in done)
        if failed:
            _cancel(futures)
        if all(future.done() for future in futures) and (failed or received == sum(each.result() for each in done)):
            return


def _cancel(futures: Sequence[Future]) -> None:
    """Those that have not begun."""
    for future in futures:
        future.cancel()


def _open(open_checkpoint: Callable[[], Checkpoint], threads: int, outcomes: "multiprocessing.Queue[bytes]") -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    outcomes.cancel_join_thread()  # nobody may listen any more
    _worker.append(_Worker(open_checkpoint(), outcomes))


def _send_outcomes(clip: WorldClip, variants: Mapping[str, Variant], settings: Settings, options: Mapping) -> int:
    """Evaluates a clip; returns the number of outcomes.

    They are pickled here, with plain pickle: torch would send tensors through open files, of which there can be too
    many.
    """
    (worker,) = _worker
    sent = 0
    for outcome in evaluate(worker.checkpoint, [clip], variants, settings, **options):
        worker.outcomes.put(pickle.dumps(outcome))
        sent += 1
    return sent
