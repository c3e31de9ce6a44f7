"""s3prl plugin: distillation (`run_pretrain.py -u distiller_av`) and encoders as upstreams.

    import s3prl_upstream
    from s3prl.nn import S3PRLUpstream

    upstream = S3PRLUpstream("avhubert_student_local", path_or_url="student.safetensors")

Importing it is instant and needs no s3prl: the upstreams join `s3prl.hub` now if that is loaded,
else as soon as it is.
"""

from s3prl_upstream.registration import register_upstreams

register_upstreams()
