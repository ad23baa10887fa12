"""int8 graphs made of fp32 ones, and the gate that judges them. Needs `onnx`."""
