"""The command names of version 0.1, which still work."""

from __future__ import annotations

MOVED = {
    "synth": ("data", "synth"),
    "prepare": ("data", "prepare"),
    "noise": ("data", "noise"),
    "noise-preview": ("data", "noise-preview"),
    "subwords": ("data", "subwords"),
    "prepare-video": ("data", "video"),
    "convert": ("model", "convert"),
    "average": ("model", "average"),
    "init": ("model", "init"),
    "prune": ("model", "prune"),
    "export-sparse": ("model", "compress"),
    "complexity": ("model", "complexity"),
    "compare": ("report", "seeds"),
    "pruning-report": ("report", "pruning"),
    "frontier": ("report", "frontier"),
    "sparse-report": ("report", "sparsity"),
    "benchmark-distillation": ("benchmark", "distillation"),
    "benchmark-data": ("benchmark", "data"),
    "benchmark-sparse": ("benchmark", "sparsity"),
    "benchmark-runtime": ("benchmark", "runtime"),
    "benchmark-transcription": ("benchmark", "transcription"),
    "benchmark-decoding": ("benchmark", "runtime"),
}
# `benchmark-decoding` timed the PyTorch forms only, and had other defaults.
DECODING = ("--form", "pytorch", "pytorch fused", "--model", "teacher", "7", "--threads", "1",
            "--decoder", "base")  # fmt: skip


def current(words: list[str]) -> tuple[list[str], str]:
    """A command line with the present names, and a note if it had an old one.

    Args:
        words: the command line without the program.

    Returns:
        The words to parse, and a line about the change or an empty string.
    """
    if not words:
        return words, ""
    old, *rest = words
    if old in MOVED:
        new = " ".join(MOVED[old])
        defaults = DECODING if old == "benchmark-decoding" else ()
        return [*MOVED[old], *defaults, *rest], f"'{old}' is now '{new}'"
    options = bool(rest) and rest[0].startswith("-") and rest[0] not in ("-h", "--help")
    if old == "report" and options:
        return ["report", "decoded", *rest], "'report' is now 'report decoded'"
    if old == "benchmark" and options and "encoder" in rest:
        rest.remove("encoder")
        return ["benchmark", "encoder", *rest], "'benchmark' takes 'encoder' first now"
    return words, ""
