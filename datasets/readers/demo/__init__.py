"""The generated world, read like the benchmarks it imitates."""
