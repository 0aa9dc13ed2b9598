"""The index over the train split's tokens: where in the documents any sequence of tokens occurs."""
