// 3x3 convolutions with stride 2 and padding 1 on [N, H, W, C]: for each tap, the pixels that it meets times its weights.
#include <omp.h>

#include "product.h"

namespace {

constexpr int CHUNK = 64;  // pixels that are worked on together
constexpr int TAPS = 9;

// Of the larger map, which is convolved; the smaller one is [N, down, across, out].
struct Shape {
    int images, height, width, in, out;

    int down() const { return (height + 1) / 2; }
    int across() const { return (width + 1) / 2; }
    int small() const { return images * down() * across(); }  // pixels
};

// Where some pixels lie that are worked on together: in the smaller map, or in one of the four maps of every second
// row and pixel of the larger one.
struct Places {
    int count, n[CHUNK], y[CHUNK], x[CHUNK];

    Places(int first, int pixels, int down, int across) : count(std::min(CHUNK, pixels - first)) {
        for (int i = 0; i < count; i++) {
            int pixel = first + i;
            n[i] = pixel / (down * across), y[i] = pixel / across % down, x[i] = pixel % across;
        }
    }
};

// Pixel (y, x) of image n as floats, or zeros beyond the edges.
template <class T> void pixel(const T *from, int n, int y, int x, int height, int width, int channels, float *to) {
    bool inside = y >= 0 && y < height && x >= 0 && x < width;
    const T *at = inside ? from + ((size_t)(n * height + y) * width + x) * channels : from;
    for (int c = 0; c < channels; c += WIDTH) store(to + c, inside ? load(at + c) : vec{});
}

// What a tap meets of x, for places in the smaller map: [count, in].
template <class T> void met(const Shape &s, const T *x, const Places &p, int tap, float *to) {
    for (int i = 0; i < p.count; i++)
        pixel(x, p.n[i], 2 * p.y[i] + tap / 3 - 1, 2 * p.x[i] + tap % 3 - 1, s.height, s.width, s.in, to + (size_t)i * s.in);
}

// Panels of each tap's weights, one tap after the other, from w [out, in, 3, 3]: of their transpose for the way forward.
void weights_in_panels(const Shape &s, const float *w, bool back, float *panels) {
    int depth = back ? s.out : s.in, width = back ? s.in : s.out;
#pragma omp for schedule(static)
    for (int first = 0; first < width; first += WIDTH)
        for (int k = 0; k < depth; k++)
            for (int l = 0; l < WIDTH; l++) {
                int o = back ? k : first + l, i = back ? first + l : k;
                const float *from = w + ((size_t)o * s.in + i) * TAPS;
                float *to = panels + in_panels(k, first, width, depth) + l;
                for (int tap = 0; tap < TAPS; tap++) to[(size_t)tap * s.in * s.out] = from[tap];
            }
}

template <class T> void convolve(const Shape &s, const T *x, const float *w, const float *bias, T *y, float *panels) {
#pragma omp parallel
    {
        weights_in_panels(s, w, false, panels);
        float *A = scratch((size_t)CHUNK * (s.in + s.out)), *C = A + (size_t)CHUNK * s.in;
#pragma omp for schedule(static)
        for (int first = 0; first < s.small(); first += CHUNK) {
            Places at(first, s.small(), s.down(), s.across());
            int count = at.count;
            for (int i = 0; i < count; i++)
                for (int c = 0; c < s.out; c += WIDTH) store(C + (size_t)i * s.out + c, bias ? load(bias + c) : vec{});
            for (int tap = 0; tap < TAPS; tap++) {
                met(s, x, at, tap, A);
                product<true>(count, s.out, s.in, A, s.in, 1, panels + (size_t)tap * s.in * s.out, C, s.out);
            }
            for (size_t i = 0; i < (size_t)count * s.out; i += WIDTH) store(y + (size_t)first * s.out + i, load(C + i));
        }
    }
}

// dx from dy, for the even and the odd rows and pixels by themselves: each of these meets the same taps everywhere.
template <class T> void back(const Shape &s, const T *dy, const float *w, T *dx, float *panels) {
#pragma omp parallel
    {
        weights_in_panels(s, w, true, panels);
        float *A = scratch((size_t)CHUNK * (s.in + s.out)), *C = A + (size_t)CHUNK * s.out;
        for (int odd = 0; odd < 4; odd++) {
            int odd_y = odd / 2, odd_x = odd % 2, down = (s.height + 1 - odd_y) / 2, across = (s.width + 1 - odd_x) / 2;
            int pixels = s.images * down * across;
#pragma omp for schedule(static) nowait
            for (int first = 0; first < pixels; first += CHUNK) {
                Places at(first, pixels, down, across);
                int count = at.count;
                std::fill(C, C + (size_t)count * s.in, 0.f);
                for (int tap = 0; tap < TAPS; tap++) {
                    if (tap / 3 % 2 == odd_y || tap % 3 % 2 == odd_x) continue;  // is never over such a pixel
                    int below = (odd_y + 1 - tap / 3) / 2, beside = (odd_x + 1 - tap % 3) / 2;
                    for (int i = 0; i < count; i++)
                        pixel(dy, at.n[i], at.y[i] + below, at.x[i] + beside, s.down(), s.across(), s.out, A + (size_t)i * s.out);
                    product<true>(count, s.in, s.out, A, s.out, 1, panels + (size_t)tap * s.in * s.out, C, s.in);
                }
                for (int i = 0; i < count; i++) {
                    size_t row = (size_t)at.n[i] * s.height + 2 * at.y[i] + odd_y;
                    T *to = dx + (row * s.width + 2 * at.x[i] + odd_x) * s.in;
                    for (int c = 0; c < s.in; c += WIDTH) store(to + c, load(C + (size_t)i * s.in + c));
                }
            }
        }
    }
}

// dw [out, in, 3, 3] and dbias [out]; sums: [threads, taps * in * out + out].
template <class T> void gradient(const Shape &s, const T *x, const T *dy, float *dw, float *dbias, float *sums) {
    size_t each = (size_t)s.in * s.out, whole = TAPS * each + s.out;
    int used = 1;
#pragma omp parallel
    {
        float *own = sums + omp_get_thread_num() * whole, *total = own + TAPS * each;
#pragma omp single
        used = omp_get_num_threads();
        std::fill(own, own + whole, 0.f);
        float *A = scratch((size_t)CHUNK * (s.in + s.out)), *D = A + (size_t)CHUNK * s.in;
#pragma omp for schedule(static)
        for (int first = 0; first < s.small(); first += CHUNK) {
            Places at(first, s.small(), s.down(), s.across());
            int count = at.count;
            for (int i = 0; i < count; i++)
                for (int c = 0; c < s.out; c += WIDTH) {
                    vec d = load(dy + (size_t)(first + i) * s.out + c);
                    store(D + in_panels(i, c, s.out, count), d);
                    store(total + c, load(total + c) + d);
                }
            for (int tap = 0; tap < TAPS; tap++) {
                met(s, x, at, tap, A);
                product<true>(s.in, s.out, count, A, 1, s.in, D, own + tap * each, s.out);
            }
        }
#pragma omp for schedule(static)
        for (int i = 0; i < s.in; i++)
            for (int tap = 0; tap < TAPS; tap++)
                for (int o = 0; o < s.out; o++) {
                    float sum = 0;
                    for (int k = 0; k < used; k++) sum += sums[k * whole + tap * each + (size_t)i * s.out + o];
                    dw[((size_t)o * s.in + i) * TAPS + tap] = sum;
                }
#pragma omp for schedule(static)
        for (int o = 0; o < s.out; o++) {
            dbias[o] = 0;
            for (int k = 0; k < used; k++) dbias[o] += sums[k * whole + TAPS * each + o];
        }
    }
}

}  // namespace

extern "C" {

#define STRIDED(T, name)                                                                                                 \
    void strided_##name(int n, int h, int w, int in, int out, const T *x, const float *weights, const float *bias, T *y, float *panels) { \
        convolve(Shape{n, h, w, in, out}, x, weights, bias, y, panels);                                                  \
    }                                                                                                                    \
    void strided_back_##name(int n, int h, int w, int in, int out, const T *dy, const float *weights, T *dx, float *panels) { \
        back(Shape{n, h, w, in, out}, dy, weights, dx, panels);                                                          \
    }                                                                                                                    \
    void strided_gradient_##name(int n, int h, int w, int in, int out, const T *x, const T *dy, float *dw, float *dbias, float *sums) { \
        gradient(Shape{n, h, w, in, out}, x, dy, dw, dbias, sums);                                                       \
    }
STRIDED(float, float32)
STRIDED(bf16, bfloat16)
}
