"""States of a student that s3prl trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avhubert_ext.checkpoints.description import (
    describe,
)
from avhubert_ext.errors import InputError
from avhubert_ext.models.student import Student


def newest_state(folder: Path) -> Path:
    """The s3prl state of the last step in an experiment folder.

    By name, `states-STEP.ckpt`, for copies keep no times; `states-epoch-EPOCH.ckpt` ends a run.
    """

    def step(path: Path) -> tuple[bool, int]:
        number = path.stem.rpartition("-")[2]
        return "-epoch-" in path.name, int(number) if number.isdigit() else -1

    states = sorted(folder.glob("states-*.ckpt"), key=step)
    if not states:
        raise InputError(f"{folder}: no states-*.ckpt in it; distill first, or name a file")
    return states[-1]


def student_states(student: Student) -> dict[str, Any]:
    """What an s3prl state holds of a student: weights, and the configuration to rebuild it."""
    return {
        "Student": student.state_dict(),
        "Student_Description": json.dumps(describe(student)),
    }
