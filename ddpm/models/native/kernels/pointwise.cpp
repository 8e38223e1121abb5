// Convolutions of single pixels: products of [pixels, channels] with a matrix of weights [outputs, inputs].
#include <omp.h>

#include "maps.h"
#include "product.h"

namespace {

constexpr int CHUNK = 64, GRADIENT_CHUNK = 128;  // pixels that are worked on together

// Weights as panels: of their transpose for the way forward, as they are for the way back.
void weights_in_panels(const float *w, float *panels, int in, int out, bool back) {
    int depth = back ? out : in, width = back ? in : out;
#pragma omp for schedule(static)
    for (int first = 0; first < width; first += WIDTH)
        for (int k = 0; k < depth; k += 4) {
            float *to = panels + in_panels(k, first, width, depth);
            size_t row = in_panels(1, first, width, depth) - in_panels(0, first, width, depth);
            if (back)
                for (int j = 0; j < 4; j++) store(to + j * row, load(w + (size_t)(k + j) * in + first));
            else
                for (int l = 0; l < WIDTH; l += 4) transpose_four(w + (size_t)(first + l) * in + k, in, to + l, row);
        }
}

// Some pixels as floats: [count, channels].
template <class T> void gather(const Map<const T> &from, size_t first, int count, float *to) {
    for (int i = 0; i < count; i++)
        for (int c = 0; c < from.channels; c += WIDTH, to += WIDTH) store(to, load(from.at(first + i, c)));
}

// The same, without a copy where they are so already.
inline const float *as_floats(const Map<const float> &from, size_t first, int count, float *room) {
    if (!from.two) return from.at(first, 0);
    gather(from, first, count, room);
    return room;
}
inline const float *as_floats(const Map<const bf16> &from, size_t first, int count, float *room) {
    gather(from, first, count, room);
    return room;
}

// y [pixels, width] = x [pixels, depth] times the weights + bias + add, the last two where they are given.
template <class T>
void multiply(int pixels, int in, int out, bool back, const Map<const T> &x, const float *w, const float *bias, const T *add, const Map<T> &y, float *panels) {
    int depth = back ? out : in, width = back ? in : out;
#pragma omp parallel
    {
        weights_in_panels(w, panels, in, out, back);
        float *room = scratch((size_t)CHUNK * depth);
#pragma omp for schedule(static)
        for (int first = 0; first < pixels; first += CHUNK) {
            int count = std::min(CHUNK, pixels - first);
            const float *from = as_floats(x, first, count, room);
            for (int c = 0; c < width; c += BLOCK) {
                alignas(64) float tile[CHUNK * BLOCK];  // stays in the first cache until it is written out
                int wide = std::min(BLOCK, width - c);
                product<false>(count, wide, depth, from, depth, 1, panels + (size_t)c * depth, tile, wide);
                for (int i = 0; i < count; i++)
                    for (int v = 0; v < wide; v += WIDTH) {
                        vec value = load(tile + i * wide + v);
                        if (bias) value += load(bias + c + v);
                        if (add) value += load(add + (size_t)(first + i) * width + c + v);
                        store(y.at(first + i, c + v), value);
                    }
            }
        }
    }
}

// dw [out, in] = dy^T x and dbias [out]; sums: [threads, out * in + out].
template <class T> void gradient(int pixels, int in, int out, const Map<const T> &x, const Map<const T> &dy, float *dw, float *dbias, float *sums) {
    size_t whole = (size_t)out * in + out;
    int used = 1;
#pragma omp parallel
    {
        float *own = sums + omp_get_thread_num() * whole, *total = own + (size_t)out * in;
#pragma omp single
        used = omp_get_num_threads();
        std::fill(own, own + whole, 0.f);
        float *d = scratch((size_t)GRADIENT_CHUNK * (in + out)), *panels = d + (size_t)GRADIENT_CHUNK * out;
#pragma omp for schedule(static)
        for (int first = 0; first < pixels; first += GRADIENT_CHUNK) {
            int count = std::min(GRADIENT_CHUNK, pixels - first);
            gather(dy, first, count, d);
            for (int i = 0; i < count; i++) {
                for (int c = 0; c < in; c += WIDTH)
                    store(panels + in_panels(i, c, in, count), load(x.at(first + i, c)));
                for (int c = 0; c < out; c += WIDTH) store(total + c, load(total + c) + load(d + (size_t)i * out + c));
            }
            product<true>(out, in, count, d, 1, out, panels, own, in);
        }
#pragma omp for schedule(static)
        for (size_t i = 0; i < whole; i += WIDTH) {
            vec v = load(sums + i);
            for (int k = 1; k < used; k++) v += load(sums + k * whole + i);
            if (i < (size_t)out * in)
                store(dw + i, v);
            else
                store(dbias + (i - (size_t)out * in), v);
        }
    }
}

}  // namespace

extern "C" {

#define POINTWISE(T, name)                                                                                             \
    void pointwise_##name(int pixels, int in, int out, int split, const T *x, const T *x2, const float *w, const float *bias, const T *add, \
                          T *y, float *panels) {                                                                       \
        Map<const T> from(x, x2, split, in);                                                                        \
        multiply(pixels, in, out, false, from, w, bias, add, Map<T>(y, nullptr, 0, out), panels);                   \
    }                                                                                                                  \
    void pointwise_back_##name(int pixels, int in, int out, int split, const T *dy, const float *w, T *dx, T *dx2, float *panels) { \
        Map<const T> from(dy, nullptr, 0, out);                                                                     \
        multiply<T>(pixels, in, out, true, from, w, nullptr, nullptr, Map<T>(dx, dx2, split, in), panels);          \
    }                                                                                                                  \
    void pointwise_gradient_##name(int pixels, int in, int out, int split, const T *x, const T *x2, const T *dy, float *dw, float *dbias, float *sums) { \
        gradient(pixels, in, out, Map<const T>(x, x2, split, in), Map<const T>(dy, nullptr, 0, out), dw, dbias, sums); \
    }
POINTWISE(float, float32)
POINTWISE(bf16, bfloat16)
}
