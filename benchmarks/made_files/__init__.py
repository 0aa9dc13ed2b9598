"""Files made by a program, of known content, for benchmarks and tests.

They are here, and not among the tests' helpers, because imports go one way: tests may import benchmarks, but
benchmarks import nothing from tests.
"""
