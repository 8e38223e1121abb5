// Vectors of floats as the compiler knows them: as wide as the processor, without naming its instructions.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__AVX512F__)
constexpr int WIDTH = 16;  // floats in a vector
constexpr int COLUMNS = 2;  // vectors in a column block of a matrix product
#elif defined(__AVX__)
constexpr int WIDTH = 8;
constexpr int COLUMNS = 2;
#else
constexpr int WIDTH = 4;
constexpr int COLUMNS = 4;
#endif

typedef uint16_t bf16;  // the upper half of a float
typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t ints __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));

static inline vec load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline vec load(const bf16 *from) {
    halves h;
    memcpy(&h, from, sizeof h);
    return (vec)(__builtin_convertvector(h, ints) << 16);
}

static inline void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

// Rounded to the nearest, ties to even, as torch does it.
static inline void store(bf16 *to, vec v) {
    ints u = (ints)v;
    halves h = __builtin_convertvector((u + 0x7fff + ((u >> 16) & 1)) >> 16, halves);
    memcpy(to, &h, sizeof h);
}

static inline vec all(float value) { return value - (vec){}; }

static inline float sum(vec v) {
    float total = 0;
    for (int i = 0; i < WIDTH; i++) total += v[i];
    return total;
}

static inline vec clamped(vec x, float low, float high) {
    x = x < low ? all(low) : x;
    return x > high ? all(high) : x;
}

// e to the x within three units in the last place, for x from -87 to 87: as a power of 2, its fraction by a polynomial.
static inline vec exponential(vec x) {
    constexpr float LOG2_E = 1.44269504f;
    const vec magic = all(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
    vec shifted = x * LOG2_E + magic, f = x * LOG2_E - (shifted - magic);
    vec p = f * 0.00132647272f + 0.00967151269f;
    p = p * f + 0.0555073374f;
    p = p * f + 0.240222421f;
    p = p * f + 0.693146978f;
    p = p * f + 1.f;
    return (vec)((ints)p + ((ints)shifted << 23));  // magic's own bits are shifted out
}

static inline vec sigmoid(vec x) { return 1.f / (1.f + exponential(clamped(-x, -87, 87))); }

// Memory of a thread that stays: fresh pages for every call would cost more than the work in them.
inline float *scratch(size_t floats) {
    struct Free {
        void operator()(float *p) const { free(p); }
    };
    static thread_local std::unique_ptr<float, Free> held;
    static thread_local size_t size = 0;
    if (floats > size) {
        held.reset((float *)aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
        if (!held) fputs("There is no memory left for the native kernels: use a smaller batch.\n", stderr), abort();
        size = floats;
    }
    return held.get();
}
