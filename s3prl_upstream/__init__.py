"""s3prl plugin: distillation (`run_pretrain.py -u distiller_av`) and encoders as upstreams.

    import s3prl_upstream
    from s3prl.nn import S3PRLUpstream

    upstream = S3PRLUpstream("avhubert_student_local", path_or_url="student.safetensors")

Importing this package is instant and does not need s3prl. The upstreams are added to `s3prl.hub`
when that is loaded, which may be later.
"""

from s3prl_upstream.registration import register_upstreams

register_upstreams()
