"""fairseq plugin: `fairseq-train --user-dir fairseq_user_dir ...`.

Importing it registers the tasks and models below; fairseq imports `tasks/` and `models/` itself.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from fairseq.file_io import PathManager

from avhubert_ext.data.files import whole_file
from avhubert_ext.errors import show_input_errors_plainly

show_input_errors_plainly()

# torch >= 2.6 loads tensors and plain containers only; fairseq stores its arguments as well.
torch.serialization.add_safe_globals([argparse.Namespace])

# torchaudio reports at DEBUG every FFmpeg version it did not find.
logging.getLogger("torio").setLevel(logging.WARNING)


def _copy_whole(source: str, target: str, overwrite: bool = False, **kwargs: Any) -> bool:
    with whole_file(Path(target)) as temporary:
        shutil.copyfile(source, temporary)
    return True


# fairseq copies checkpoint_last.pt and checkpoint_best.pt in place: killed meanwhile, it would
# leave a torn file that no rerun gets past.
PathManager.copy = staticmethod(_copy_whole)
