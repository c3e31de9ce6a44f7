"""Encoders as s3prl upstreams: one folder for each kind, as in `s3prl/upstream`."""
