"""fairseq plugin: `fairseq-train --user-dir fairseq_user_dir ...`.

Importing it registers the tasks and models below; fairseq imports `tasks/` and `models/` itself.
"""

import argparse
import logging

import torch

from avhubert_ext.errors import show_input_errors_plainly

show_input_errors_plainly()

# torch >= 2.6 loads tensors and plain containers only; fairseq stores its arguments as well.
torch.serialization.add_safe_globals([argparse.Namespace])

# torchaudio reports at DEBUG every FFmpeg version it did not find.
logging.getLogger("torio").setLevel(logging.WARNING)
