"""Turn raw corpora into mouth regions, manifests, subwords, and noise."""
