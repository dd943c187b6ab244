"""What the options of the commands choose from. Imports nothing."""

FORMATS = ('onnx', 'torchscript', 'pt2')
