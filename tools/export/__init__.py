"""Networks as ONNX files for robots: float32 or INT8, compared with the network before anything is written."""
