"""Savings of time and memory. Each can be switched off, and none changes a number beyond rounding."""

from lrp_tf.engine.savings.switch import switched_off

__all__ = ["switched_off"]
