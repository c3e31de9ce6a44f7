"""States that s3prl saves while it distills a student: `states-STEP.ckpt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avhubert_ext.checkpoints.description import describe
from avhubert_ext.checkpoints.stored_network import StoredNetwork
from avhubert_ext.checkpoints.torch_file import plain_tensors
from avhubert_ext.errors import InputError
from avhubert_ext.models.student import Student

WEIGHTS, DESCRIPTION = "Student", "Student_Description"


def student_states(student: Student) -> dict[str, Any]:
    """The entries of an s3prl state that hold a student: its weights and its description."""
    return {WEIGHTS: student.state_dict(), DESCRIPTION: json.dumps(describe(student))}


def network(path: Path, stored: dict[str, Any]) -> StoredNetwork | None:
    """The student in the content of a file; None if the file is not an s3prl state.

    Raises:
        InputError: If the weights are not plain tensors.
    """
    if WEIGHTS not in stored:
        return None
    return StoredNetwork(stored.get(DESCRIPTION), plain_tensors(path, stored[WEIGHTS]), {})


def newest_state(folder: Path) -> Path:
    """The state of the last step in an experiment folder.

    Only the names count, because copies lose their times. `states-epoch-EPOCH.ckpt` is written at
    the end of a run.

    Raises:
        InputError: If the folder has no states.
    """

    def step(path: Path) -> tuple[bool, int]:
        number = path.stem.rpartition("-")[2]
        return "-epoch-" in path.name, int(number) if number.isdigit() else -1

    states = sorted(folder.glob("states-*.ckpt"), key=step)
    if not states:
        raise InputError(f"{folder}: no states-*.ckpt in it; distill first, or name a file")
    return states[-1]
