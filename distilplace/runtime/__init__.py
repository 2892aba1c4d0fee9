"""What runs on a robot: a student in ONNX, a map of places. Without torch."""
