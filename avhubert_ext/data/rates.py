"""The sampling rates that the whole project works at."""

SAMPLE_RATE = 16_000  # audio samples per second
FPS = 25  # video frames per second
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # audio samples per video frame
