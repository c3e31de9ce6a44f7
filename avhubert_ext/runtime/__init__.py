"""The engine of exported recognizers: beam searches in numpy, and a graph runtime.

`avhubert_ext.export` writes the folders; ONNX Runtime or OpenVINO runs the graphs in them, and is
imported when one is opened. Neither PyTorch nor a toolkit is needed.

folder          `model.json` and the graphs it lists
backends        functions that run a graph
search          beam search of models without CTC
joint_search    beam search of models with CTC
"""
