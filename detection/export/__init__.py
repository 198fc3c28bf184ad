"""ONNX files of trained detectors, checked against the detectors that they were made of."""
