"""The kernels in C++: compiled at first use, and called in place of torch operations."""
