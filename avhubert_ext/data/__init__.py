"""Reading corpora: manifests, audio features, video, noise, batches. Frames are 25 Hz throughout."""
