"""From any video to the mouth region: decoding, landmarks, tracks, alignment, quality."""
