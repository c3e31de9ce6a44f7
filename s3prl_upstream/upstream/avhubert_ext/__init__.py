"""AV-HuBERT and its students as upstreams; the folder also works as `s3prl/upstream/avhubert_ext`.

This project's launcher, `s3prl_upstream/run_downstream.py`, has them in view: of the installed
s3prl, or with `S3PRL=DIR` of a git checkout. For the stock script of a checkout (S3PRL is its
folder with `hub.py` in it):

    ln -s "$PWD/s3prl_upstream/upstream/avhubert_ext" "$S3PRL/upstream/avhubert_ext"
    echo "from s3prl.upstream.avhubert_ext.hubconf import *" >> "$S3PRL/hub.py"
    cd "$S3PRL"
    PYTHONPATH="$S3PRL/.." python run_downstream.py -m train -u avhubert_student_local ...

s3prl's hub lists its upstreams by name, hence the second line. PYTHONPATH is for where another
s3prl is installed, whose hub the script would import. The stock script also needs
`huggingface_hub<1` and so `transformers<5`, and with PyTorch 2.6 or newer
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment to resume from a state; the launcher needs
neither.
"""
