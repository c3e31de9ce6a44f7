"""Generate the synthetic corpus: espeak-ng speech, drawn lips, and noise."""
