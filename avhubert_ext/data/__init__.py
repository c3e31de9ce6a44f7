"""Reading corpora: manifests, features, video, noise, batches. Frames are 25 Hz throughout."""
