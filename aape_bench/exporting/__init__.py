"""Encoders for elsewhere: safetensors with a config, ONNX, or a package that is a HEAR module."""
