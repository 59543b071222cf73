"""Compiled passes in a file, so that a process needs neither to trace nor to optimise them."""
