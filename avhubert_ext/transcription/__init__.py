"""Transcription of clips of any length, with a time for every word."""
