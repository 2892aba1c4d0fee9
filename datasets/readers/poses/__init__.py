"""Camera-pose benchmarks: Cambridge Landmarks and 7-Scenes."""
