"""Models that are ready to recognize speech: one interface, two engines.

base        `Recognizer`: open a file, transcribe, recognize one clip, search a batch
pytorch     checkpoints, in PyTorch
exported    folders of `avhubert-ext export`, in numpy and a graph runtime, without PyTorch
"""
