"""What s3prl's states hold, as plain containers and tensors, so that PyTorch loads them safely.

s3prl puts objects of its own into them, which torch.load refuses from 2.6 on; its unmodified
scripts resume from states of this form.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from typing import Any

import torch

SCHEDULE = "schedule"  # an object in each of the optimizer's parameter groups
CLASS = "class"
# Options of each run, not of the experiment: settings of `-o` are in the state's configuration by
# then, and an experiment may resume on another machine or in another folder.
OWN = ("override", "device", "expdir", "expname")


def pack_arguments(arguments: Namespace) -> OrderedDict:
    """s3prl reads attributes, and an OrderedDict is the one safe class that has some.

    Without OWN: kept, they would take the place of the same options of the run that resumes.
    """
    packed = OrderedDict()
    vars(packed).update({n: v for n, v in vars(arguments).items() if n not in OWN})
    return packed


def pack_schedules(optimizer: dict[str, Any]) -> None:
    """In an optimizer's state dict turn learning-rate schedules into dicts."""
    for group in optimizer["param_groups"]:
        if SCHEDULE in group:
            schedule = group[SCHEDULE]
            group[SCHEDULE] = {CLASS: type(schedule).__name__, **vars(schedule)}


def unpack_schedules(optimizer: dict[str, Any]) -> None:
    """The inverse of `pack_schedules`."""
    import optimizers  # s3prl's, under the name that its scripts import it by

    for group in optimizer["param_groups"]:
        if SCHEDULE in group:
            attributes = dict(group[SCHEDULE])
            schedule_class = getattr(optimizers, attributes.pop(CLASS))
            group[SCHEDULE] = schedule = schedule_class.__new__(schedule_class)
            vars(schedule).update(attributes)


def random_state() -> dict[str, Any]:
    """The state of PyTorch's generators, on the CPU and on every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`; GPUs that were not there stay as they are."""
    torch.set_rng_state(state["cpu"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
