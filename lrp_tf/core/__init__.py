"""What a model is: steps, tensors, numbers, linear layers. No policy."""
