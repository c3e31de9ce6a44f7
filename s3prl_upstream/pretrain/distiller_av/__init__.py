"""Distillation of an audio-visual student from an AV-HuBERT teacher (paper A).

This project's launcher, `s3prl_upstream/run_pretrain.py`, starts s3prl's script with the expert in
view. The stock script of an s3prl checkout starts it too, once the folder is linked into it (S3PRL
is the checkout's folder with `run_pretrain.py` in it, and where the script must be started):

    ln -s "$PWD/s3prl_upstream/pretrain/distiller_av" "$S3PRL/pretrain/distiller_av"
    cd "$S3PRL"
    python run_pretrain.py -u distiller_av -n distil -g model.yaml -c run.yaml --device cpu

Paths in the configurations are then relative to that folder, so better absolute. `-e` and `-a` go
on from a state as with the launcher, which besides copes with a state that was cut short and with
s3prl's name for the last state of a run.
"""
