"""Files of models: reading, writing and converting them."""
