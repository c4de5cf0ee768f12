"""The pieces that training loops share: data, checkpoints, optimisers, processes."""
