"""Distillation of an audio-visual student from an AV-HuBERT teacher (paper A).

This project's launcher, `s3prl_upstream/run_pretrain.py`, starts s3prl's script with the expert in
view: that of the installed s3prl, or with `S3PRL=DIR` that of a git checkout.

The stock script of a checkout starts it, too, once the folder is linked into the checkout, from
the folder `s3prl_upstream` (S3PRL is the absolute path of the checkout's folder with
`run_pretrain.py` in it, and so are all other paths):

    ln -s "$PWD/s3prl_upstream/pretrain/distiller_av" "$S3PRL/pretrain/distiller_av"
    cd s3prl_upstream
    python "$S3PRL/run_pretrain.py" -u distiller_av -n distill -p DIR -g MODEL.yaml -c RUN.yaml

From the checkout's own folder that command ends with an AssertionError at
`assert len(upstream_dirs) == 1`: the script takes the folders in `pretrain/` of the current folder
for upstreams, and cannot choose between `distiller_av` and its own `distiller`.

Without a GPU add `--device cpu`. `-e` and `-a` resume from a state as with the launcher, which also
copes with a state that was cut short and with s3prl's name for the last state of a run.
"""
