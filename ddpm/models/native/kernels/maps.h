// Feature maps as kernels are given them.
#pragma once
#include <algorithm>
#include <cstddef>

// [pixels, channels]; or, where there is a second one, two side by side in their channels, of which `split` are the
// first one's.  Both are multiples of a vector.
template <class T> struct Map {
    T *one, *two;
    int split, channels;

    Map(T *one, T *two, int split, int channels) : one(one), two(two), split(two ? split : channels), channels(channels) {}

    T *at(size_t pixel, int c) const {
        return c < split ? one + pixel * split + c : two + pixel * (channels - split) + (c - split);
    }
    // From a channel of a pixel to the same of the next.
    size_t step(int c) const { return c < split ? split : channels - split; }
    // How many of `count` channels from c on lie side by side.
    int together(int c, int count) const { return c < split ? std::min(count, split - c) : count; }
    explicit operator bool() const { return one; }
};
