"""Extract the mouth region from any video: landmarks, tracks, alignment, crops, quality."""
