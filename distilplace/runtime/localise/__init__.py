"""Where is the robot? Confidence of single answers, and filters over sequences of images. NumPy alone."""
