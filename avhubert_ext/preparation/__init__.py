"""From raw corpora to manifests, mouth regions and noise."""
