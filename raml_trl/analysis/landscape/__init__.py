"""Loss landscape: how the loss of the reference answers changes as the weights of a model are moved."""
