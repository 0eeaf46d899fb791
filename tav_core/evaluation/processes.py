"""The evaluation in several processes, one clip at a time each.

Small networks leave a CPU's threads waiting, and a GPU for its kernels to be launched. On two cores, two processes of
one thread measured 1.4 times as many clips as one process of two threads.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event, Lock

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
    """What a process has: the checkpoint, and how to send outcomes, one process at a time; no clip begins after `stop`.

    ProcessPoolExecutor hands clips to processes ahead of time, and these can no longer be cancelled.
    """

    checkpoint: Checkpoint
    outcomes: Connection
    sending: Lock
    stop: Event


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
    If one clip fails, those that are running are finished first, and their samples kept. If this generator is closed or
    interrupted, or this process ends, the others end at once; finished samples are kept. Raises TavError if a process
    dies.
    """
    threads = max(1, torch.get_num_threads() // processes)
    work = partial(_send_outcomes, variants=dict(variants), settings=settings, options=options)
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    received, sent = context.Pipe(duplex=False)
    stop = context.Event()
    to_open = open_checkpoint, threads, sent, context.Lock(), stop
    with received, ProcessPoolExecutor(processes, context, _open, to_open) as pool, _ended_if_left():
        try:
            with sent:  # closed here once all have it, so that `received` ends when they all have died
                futures = [pool.submit(work, clip) for clip in clips]
            yield from _outcomes(received, futures, stop)
            for future in futures:
                future.result()
        except BrokenProcessPool as error:
            raise TavError(
                f"One of {processes} processes died, probably for lack of memory; use fewer. Finished samples are kept."
            ) from error


@contextmanager
def _ended_if_left() -> Iterator[None]:
    """Ends the processes that the block has started if it is left before it is done, as by Ctrl-C."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise


def _outcomes(received: Connection, futures: Sequence[Future[None]], stop: Event) -> Iterator[Outcome]:
    """Yields outcomes until all futures are done, and those that were successful have been heard out."""
    done = False
    while not done:
        done = all(future.done() for future in futures)  # whose outcomes are in the pipe by now
        if any(future.done() and future.exception() for future in futures):
            stop.set()
        try:
            while received.poll(0 if done else LOOK_EVERY):
                yield pickle.loads(received.recv_bytes())
        except (EOFError, OSError):  # all processes have died
            return


def _open(
    open_checkpoint: Callable[[], Checkpoint], threads: int, outcomes: Connection, sending: Lock, stop: Event
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    _worker.append(_Worker(open_checkpoint(), outcomes, sending, stop))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _send_outcomes(clip: WorldClip, variants: Mapping[str, Variant], settings: Settings, options: Mapping) -> None:
    """Evaluates a clip, and sends what comes out.

    Outcomes are pickled here, with plain pickle: torch would send tensors through open files, of which there can be too
    many.
    """
    (worker,) = _worker
    if worker.stop.is_set():
        return
    for outcome in evaluate(worker.checkpoint, [clip], variants, settings, **options):
        data = pickle.dumps(outcome)
        with worker.sending:
            worker.outcomes.send_bytes(data)
