"""Decoding on a CPU through native.cpp, and the forms of weights and memory that make it fast."""
