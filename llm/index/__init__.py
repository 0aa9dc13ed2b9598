"""The indexes over the documents: where any sequence of the train split's tokens occurs, and search by words."""
