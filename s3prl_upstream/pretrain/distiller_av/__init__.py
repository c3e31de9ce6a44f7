"""Distillation of an audio-visual student from an AV-HuBERT teacher (paper A).

The launcher `s3prl_upstream/run_pretrain.py` runs s3prl's script so that it finds this expert: the
script of the installed s3prl, or with `S3PRL=DIR` that of a git checkout.

Without the launcher, link this folder into a checkout and start its script from the folder
`s3prl_upstream`. Here S3PRL is the folder of the checkout with `run_pretrain.py`, and all paths are
absolute:

    ln -s "$PWD/s3prl_upstream/pretrain/distiller_av" "$S3PRL/pretrain/distiller_av"
    cd s3prl_upstream
    python "$S3PRL/run_pretrain.py" -u distiller_av -n distill -p DIR -g MODEL.yaml -c RUN.yaml

In the checkout's own folder that command ends with an AssertionError at
`assert len(upstream_dirs) == 1`: the script searches `pretrain/` of the current folder for
upstreams, and cannot choose between `distiller_av` and its own `distiller`.

Without a GPU add `--device cpu`. `-e` and `-a` resume from a state, as with the launcher. Only the
launcher handles truncated states and s3prl's name for the last state of a run, and prints one line
instead of a traceback for errors in the input.
"""
