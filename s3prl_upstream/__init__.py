"""s3prl plugin: `python s3prl_upstream/run_pretrain.py -u distiller_av ...`."""
