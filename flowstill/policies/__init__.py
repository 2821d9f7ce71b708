"""One interface over flow policies: teachers and students, in PyTorch and in ONNX Runtime."""
