"""Savings of time and memory. Each can be switched off, and none changes a number beyond rounding."""
