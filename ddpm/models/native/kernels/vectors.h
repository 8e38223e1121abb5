// Vectors of floats as the compiler knows them: as wide as the processor, naming its instructions in few places.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

// WIDTH: floats in a vector.  A block of a matrix product has ROWS rows of COLUMNS vectors, which are as many sums as the
// registers hold beside the vectors that are multiplied: 32 registers with AVX-512 and NEON, 16 with AVX.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, ROWS = 8, COLUMNS = 2;
#elif defined(__AVX__)
constexpr int WIDTH = 8, ROWS = 6, COLUMNS = 2;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, ROWS = 6, COLUMNS = 4;
#else
constexpr int WIDTH = 4, ROWS = 3, COLUMNS = 4;
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

// Steps for which compilers take several instructions where x86 has one or two.  at_least and at_most are the larger and
// the smaller of each two numbers; what is no number stays so in x.  Narrowed are numbers below 2^16.
#if defined(__AVX512F__)
static inline ints widened(halves h) { return (ints)_mm512_cvtepu16_epi32((__m256i)h); }
static inline halves narrowed(ints u) { return (halves)_mm512_cvtepi32_epi16((__m512i)u); }
static inline vec at_least(vec x, vec low) { return _mm512_max_ps(low, x); }
static inline vec at_most(vec x, vec high) { return _mm512_min_ps(high, x); }
#elif defined(__AVX2__)
static inline ints widened(halves h) { return (ints)_mm256_cvtepu16_epi32((__m128i)h); }
static inline halves narrowed(ints u) {
    return (halves)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u), _mm256_extracti128_si256((__m256i)u, 1));
}
static inline vec at_least(vec x, vec low) { return _mm256_max_ps(low, x); }
static inline vec at_most(vec x, vec high) { return _mm256_min_ps(high, x); }
#else
static inline ints widened(halves h) { return __builtin_convertvector(h, ints); }
static inline halves narrowed(ints u) { return __builtin_convertvector(u, halves); }
static inline vec at_least(vec x, vec low) { return x < low ? low : x; }
static inline vec at_most(vec x, vec high) { return x > high ? high : x; }
#endif

static inline vec load(const bf16 *from) {
    halves h;
    memcpy(&h, from, sizeof h);
    return (vec)(widened(h) << 16);
}

static inline void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

// Rounded to the nearest, ties to even, as torch does it.
static inline void store(bf16 *to, vec v) {
    ints u = (ints)v;
    halves h = narrowed((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    memcpy(to, &h, sizeof h);
}

static inline vec all(float value) { return value - (vec){}; }

static inline float sum(vec v) {
    float total = 0;
    for (int i = 0; i < WIDTH; i++) total += v[i];
    return total;
}

static inline vec clamped(vec x, float low, float high) { return at_most(at_least(x, all(low)), all(high)); }

typedef float four __attribute__((vector_size(16)));
typedef int32_t places __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, places{__VA_ARGS__})
#endif

// Four rows of four numbers as columns; rows are `row` and `column` floats apart.
static inline void transpose_four(const float *from, ptrdiff_t row, float *to, ptrdiff_t column) {
    four r[4];
    for (int i = 0; i < 4; i++) memcpy(&r[i], from + i * row, sizeof r[i]);
    four a = SHUFFLED(r[0], r[1], 0, 4, 1, 5), b = SHUFFLED(r[2], r[3], 0, 4, 1, 5);
    four c = SHUFFLED(r[0], r[1], 2, 6, 3, 7), d = SHUFFLED(r[2], r[3], 2, 6, 3, 7);
    four columns[4] = {SHUFFLED(a, b, 0, 1, 4, 5), SHUFFLED(a, b, 2, 3, 6, 7), SHUFFLED(c, d, 0, 1, 4, 5), SHUFFLED(c, d, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) memcpy(to + i * column, &columns[i], sizeof columns[i]);
}

// e to the x for x from -87 to 87, as a power of 2, whose fraction is a polynomial.  What it is off by, relatively, is
// about 2e-7, and 1.4e-8 |x| for the digits that LOG2_E lacks.
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
