"""Visual place-recognition benchmarks: Pittsburgh, Tokyo, Nordland."""
