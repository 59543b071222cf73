"""Keras model -> steps. Private Keras is used here alone."""
