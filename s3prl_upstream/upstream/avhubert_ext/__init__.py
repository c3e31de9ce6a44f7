"""AV-HuBERT and its students as upstreams of s3prl.

The launcher `s3prl_upstream/run_downstream.py` adds them to the installed s3prl, or with
`S3PRL=DIR` to a git checkout. The stock script of a checkout needs the following, where S3PRL is
its folder with `hub.py`:

    ln -s "$PWD/s3prl_upstream/upstream/avhubert_ext" "$S3PRL/upstream/avhubert_ext"
    echo "from s3prl.upstream.avhubert_ext.hubconf import *" >> "$S3PRL/hub.py"
    cd "$S3PRL"
    PYTHONPATH="$S3PRL/.." python run_downstream.py -m train -u avhubert_student_local ...

The second line is needed because s3prl's hub lists its upstreams by name. Without PYTHONPATH the
script would import the hub of another s3prl, if one is installed. The stock script also needs
`huggingface_hub<1`, and therefore `transformers<5`. To resume from a state with PyTorch 2.6 or
newer it needs TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment. The launcher needs none of
these.
"""
