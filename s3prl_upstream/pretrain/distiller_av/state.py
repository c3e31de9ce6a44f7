"""The content of s3prl's states as plain containers and tensors, which PyTorch loads safely.

s3prl stores objects of its own classes, which torch.load refuses since version 2.6. Its unmodified
scripts also resume from states of this form.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from typing import Any

import torch

SCHEDULE = "schedule"  # an object in each of the optimizer's parameter groups
CLASS = "class"
# Options of a run, not of the experiment: the settings of `-o` are in the configuration of the
# state, and an experiment may be resumed on another machine or in another folder.
OWN = ("override", "device", "expdir", "expname")


def pack_arguments(arguments: Namespace) -> OrderedDict:
    """Store options as the attributes of an OrderedDict, the only safe class that can have any.

    s3prl reads attributes. Those in `OWN` are left out: they would replace the options of the run
    that resumes.
    """
    packed = OrderedDict()
    vars(packed).update({n: v for n, v in vars(arguments).items() if n not in OWN})
    return packed


def pack_schedules(optimizer: dict[str, Any]) -> None:
    """Turn the schedules in the state of an optimizer into dicts, in place."""
    for group in optimizer["param_groups"]:
        if SCHEDULE in group:
            schedule = group[SCHEDULE]
            group[SCHEDULE] = {CLASS: type(schedule).__name__, **vars(schedule)}


def unpack_schedules(optimizer: dict[str, Any]) -> None:
    """Turn the dicts of `pack_schedules` into schedules again, in place."""
    import optimizers  # s3prl's, under the name by which its scripts import it

    for group in optimizer["param_groups"]:
        if SCHEDULE in group:
            attributes = dict(group[SCHEDULE])
            schedule_class = getattr(optimizers, attributes.pop(CLASS))
            group[SCHEDULE] = schedule = schedule_class.__new__(schedule_class)
            vars(schedule).update(attributes)


def random_state() -> dict[str, Any]:
    """The state of PyTorch's random generators on the CPU and on every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the state of `random_state`. Additional GPUs are left unchanged."""
    torch.set_rng_state(state["cpu"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
