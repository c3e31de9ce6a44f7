"""The embedded synthetic corpus: espeak-ng speech, drawn lips and a noise tree."""
