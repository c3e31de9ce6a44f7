"""Model files: reading, writing and converting them; `model_file` is the place to import from."""
