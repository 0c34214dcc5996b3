"""Loss landscape: the loss of the answers as the weights of a model move."""
