"""Files -> arrays and models."""
