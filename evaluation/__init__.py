"""What came out: retrieval recall over pairs of runs, example pictures, and a report one can read without a network."""
