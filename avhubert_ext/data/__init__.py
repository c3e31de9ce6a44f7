"""Read corpora: media files, manifests, features, noise, batches. Video runs at 25 frames/s."""
