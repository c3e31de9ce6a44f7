"""AV-HuBERT and its students as upstreams; the folder also works as `s3prl/upstream/avhubert_ext`.

For the stock `run_downstream.py` of a checkout, without this project's launcher (S3PRL is the
checkout's folder with `hub.py` in it):

    ln -s "$PWD/s3prl_upstream/upstream/avhubert_ext" "$S3PRL/upstream/avhubert_ext"
    echo "from s3prl.upstream.avhubert_ext.hubconf import *" >> "$S3PRL/hub.py"

s3prl's hub lists its upstreams by name, hence the second line. The stock script also needs
`huggingface_hub<1` and so `transformers<5`; the launcher does without.
"""
