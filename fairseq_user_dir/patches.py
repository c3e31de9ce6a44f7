"""Everything that importing this plugin changes in fairseq and PyTorch: one function per patch.

The plugin must work with fairseq's stock commands, so it cannot change fairseq in any other way.
Every patch was written for, and is tested with, the fairseq-fixed 0.12.3.1 package (fairseq 0.12.3
built for current Python and PyTorch versions). Its docstring says what it repairs there.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import gc
import logging
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, options, scoring
from fairseq.data.iterators import BackgroundConsumer
from fairseq.distributed import utils as distributed
from fairseq.file_io import PathManager
from fairseq.scoring.wer import WerScorer
from fairseq.trainer import Trainer
from fairseq_cli import generate
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import InputError, as_one_line

from .base import AVTask
from .loading import load_any_checkpoint
from .schedule import CosineEpochs
from .scoring import ConditionedWer, Score

SECONDS_TO_END = 30  # for reading threads to finish their item


def apply() -> None:
    """Apply all patches. The plugin calls this once, when fairseq imports it."""
    report_errors_in_one_line()
    load_any_recognizer()
    load_own_objects_safely()
    copy_checkpoints_whole()
    accept_bf16_without_tpu()
    refuse_fp16_without_gpu()
    link_schedules_to_tasks()
    end_every_update()
    score_with_conditions()
    stop_workers_with_their_reader()
    stop_readers_before_exit()
    silence_ffmpeg_search()


# ---- commands


def report_errors_in_one_line() -> None:
    """Print one line, without a traceback, for an InputError and for fairseq's own option checks.

    fairseq 0.12.3.1 prints a traceback for both. This holds for `fairseq-train`,
    `fairseq-validate` and `fairseq-generate`, also where the error occurred in a process that
    fairseq spawned or in a data loader's worker. All other errors keep their traceback. A program
    that calls these functions itself gets the exceptions, and `fairseq-hydra-train`, which imports
    this plugin too late for this patch, prints Hydra's own report.
    """
    distributed.call_main = in_one_line(distributed.call_main)
    generate.main = in_one_line(generate.main)


def in_one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that errors of users end the process if a fairseq command called it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_code.co_name != "cli_main":
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            line = as_one_line(error) or failed_check(error)
            if line is None:
                raise
            traceback.clear_frames(error.__traceback__)  # progress bars in them are redrawn now
            sys.exit(f"error: {line}")

    return run


def failed_check(error: Exception) -> str | None:
    """The message of one of fairseq's checks of options, for example a missing `--path`.

    Returns None for every other error: one that Python or the system raised, or that was raised
    outside of fairseq's commands and its checkpoint loader.
    """
    if not isinstance(error, (AssertionError, ValueError, OSError)) or not str(error):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    path = Path(frames[-1].f_code.co_filename)
    if path.parent.name != "fairseq_cli" and path.name != "checkpoint_utils.py":
        return None
    return " ".join(str(error).split())


def accept_bf16_without_tpu() -> None:
    """Let `--bf16` train on a GPU or CPU.

    The parser of fairseq 0.12.3.1 takes `--bf16` as a request for a TPU, and the commands then
    fail without one. Its trainer can use bfloat16 on any device.
    """
    parse_args_and_arch = options.parse_args_and_arch

    def parse(*args: Any, **kwargs: Any) -> Any:
        parsed = parse_args_and_arch(*args, **kwargs)
        found = parsed[0] if isinstance(parsed, tuple) else parsed
        if getattr(found, "bf16", False) and "--tpu" not in sys.argv:
            found.tpu = False
        return parsed

    options.parse_args_and_arch = parse


def silence_ffmpeg_search() -> None:
    """Keep torchaudio from logging, at level DEBUG, every FFmpeg version that it did not find."""
    logging.getLogger("torio").setLevel(logging.WARNING)


# ---- checkpoints


def load_any_recognizer() -> None:
    """Let `--path` and `--finetune-from-model` take every recognizer that the library reads.

    fairseq 0.12.3.1 reads only checkpoints that it wrote itself.
    """
    checkpoint_utils.load_checkpoint_to_cpu = load_any_checkpoint


def load_own_objects_safely() -> None:
    """Let PyTorch load fairseq's checkpoints without running code from them.

    Since 2.6 PyTorch loads only tensors and plain containers by default. fairseq 0.12.3.1 also
    stores its arguments, and sends its configuration from the first process to the others when
    they load a checkpoint.
    """
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            AnyNode,
            ContainerMetadata,
            DictConfig,
            ListConfig,
            Metadata,
            distributed._TensorPlaceholder,
            Any,
            defaultdict,
            dict,
            int,
            list,
        ]
    )


def copy_checkpoints_whole() -> None:
    """Copy a checkpoint to a temporary file first, then rename it.

    fairseq 0.12.3.1 writes checkpoint_last.pt and checkpoint_best.pt in place. If it is killed
    while it does, the file is truncated and the training can no longer be resumed.
    """

    def copy(source: str, target: str, overwrite: bool = False, **kwargs: Any) -> bool:
        with whole_file(Path(target)) as temporary:
            shutil.copyfile(source, temporary)
        return True

    PathManager.copy = staticmethod(copy)


# ---- training and scoring


def refuse_fp16_without_gpu() -> None:
    """Raise an InputError for float16 without a GPU.

    fairseq 0.12.3.1 fails later, with an error about a missing NVIDIA driver.
    """
    build_optimizer = Trainer._build_optimizer

    def build(trainer: Trainer) -> None:
        common = trainer.cfg.common
        if (common.fp16 or common.amp) and not trainer.cuda:
            option = "--fp16" if common.fp16 else "--amp"
            raise InputError(
                f"{option} needs a GPU: set --bf16, or leave it out to train in float32"
            )
        build_optimizer(trainer)

    Trainer._build_optimizer = build


def link_schedules_to_tasks() -> None:
    """Give `--lr-scheduler cosine_epochs` the length of an epoch of its own task.

    fairseq 0.12.3.1 builds a schedule from its options and the optimizer only.
    """
    build_optimizer = Trainer._build_optimizer

    def build(trainer: Trainer) -> None:
        build_optimizer(trainer)
        if isinstance(trainer._lr_scheduler, CosineEpochs) and isinstance(trainer.task, AVTask):
            trainer._lr_scheduler.follow(trainer.task.epoch_length)

    Trainer._build_optimizer = build


def end_every_update() -> None:
    """Report the end of every update to the task.

    fairseq 0.12.3.1 reports none that its loss scaler skipped, and a last update may be one.
    """
    train_step = Trainer.train_step

    def step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        output = train_step(trainer, *args, **kwargs)
        if isinstance(trainer.task, AVTask):
            trainer.task.end_update(trainer.optimizer, trainer.get_num_updates())
        return output

    Trainer.train_step = step


def score_with_conditions() -> None:
    """Print a WER with the conditions that it was measured under.

    fairseq 0.12.3.1 builds a scorer from its options and the target dictionary only, so the
    conditions come with the dictionary of a task of this plugin. Other tasks keep fairseq's scorer.
    """
    build_scorer = scoring.build_scorer

    def build(choice: Any, dictionary: Any) -> Any:
        scorer = build_scorer(choice, dictionary)
        score = getattr(dictionary, "score", None)
        if type(scorer) is WerScorer and isinstance(score, Score):
            return ConditionedWer(scorer.cfg, score)
        return scorer

    scoring.build_scorer = build


# ---- reading threads


def stop_workers_with_their_reader() -> None:
    """End a data loader's worker processes together with the thread that reads from them.

    In fairseq 0.12.3.1 the thread stops at the last batch, before the loader notices that it is
    finished, and leaves the workers to the garbage collector. This may run in a later worker
    process, which starts as a copy of this one. There it closes pipes that are in use: the threads
    print tracebacks, and files that were opened since may be closed.
    """
    read = BackgroundConsumer.run

    def run(thread: BackgroundConsumer) -> None:
        try:
            thread._source = items = iter(thread._source)
        except Exception as error:  # raised again where the queue is read
            thread._queue.put(error)
            return
        read(thread)
        if hasattr(items, "_shutdown_workers") and not items._persistent_workers:
            items._shutdown_workers()

    BackgroundConsumer.run = run
    os.register_at_fork(after_in_child=gc.freeze)


def stop_readers_before_exit() -> None:
    """End fairseq's reading threads before Python exits.

    A thread of fairseq 0.12.3.1 that is inside a decoder's C++ code at that moment aborts the
    process, and a finished training seems to have failed.
    """
    atexit.register(stop_reading_ahead)


def stop_reading_ahead() -> None:
    """Let every reading thread finish its current item, then end it; wait up to 30 s."""
    deadline = time.monotonic() + SECONDS_TO_END
    for thread in threading.enumerate():
        if isinstance(thread, BackgroundConsumer):
            thread._max_len = 0
            while thread.is_alive() and time.monotonic() < deadline:
                with suppress(queue.Empty):  # the thread may wait for room in its queue
                    thread._queue.get(timeout=0.05)
