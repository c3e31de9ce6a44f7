"""AV-HuBERT and its students as upstreams; the folder also works as `s3prl/upstream/avhubert_ext`.

In a checkout of s3prl, for its `run_downstream.py` without this project's launcher:

    ln -s "$PWD/s3prl_upstream/upstream/avhubert_ext" "$S3PRL/upstream/avhubert_ext"
    echo "from s3prl.upstream.avhubert_ext.hubconf import *" >> "$S3PRL/hub.py"

s3prl's hub lists its upstreams by name, hence the second line.
"""
