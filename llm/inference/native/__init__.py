"""Native decoding on a CPU: a C++ library compiled at first use, and the weight and memory layouts that make it fast.

Everything outside this package imports from here alone. Importing it compiles nothing.
"""

from llm.inference.native.library import NativeError, read_bandwidth
from llm.inference.native.memory import zeros
from llm.inference.native.model import CacheRows, NativeModel

__all__ = ["CacheRows", "NativeError", "NativeModel", "read_bandwidth", "zeros"]
