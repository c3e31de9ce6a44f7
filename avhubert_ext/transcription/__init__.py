"""Speech to text with the time of every word, from a clip of any length."""
