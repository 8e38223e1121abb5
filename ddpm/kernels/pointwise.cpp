// Convolutions of single pixels: products of [pixels, channels] with a matrix of weights [outputs, inputs].
#include <omp.h>

#include "product.h"

namespace {

constexpr int CHUNK = 64, GRADIENT_CHUNK = 128;  // pixels that are worked on together

// Weights as panels: of their transpose for the way forward, as they are for the way back.
void weights_in_panels(const float *w, float *panels, int in, int out, bool back) {
    int depth = back ? out : in, width = back ? in : out;
#pragma omp for schedule(static)
    for (int first = 0; first < width; first += WIDTH)
        for (int k = 0; k < depth; k++)
            for (int l = 0; l < WIDTH; l++) {
                int o = back ? k : first + l, i = back ? first + l : k;
                panels[in_panels(k, first, width, depth) + l] = w[(size_t)o * in + i];
            }
}

template <class T> void convert(const T *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i += WIDTH) store(to + i, load(from + i));
}

inline const float *as_floats(const float *x, float *, size_t) { return x; }
inline const float *as_floats(const bf16 *x, float *room, size_t count) {
    convert(x, room, count);
    return room;
}

// y [pixels, width] = x [pixels, depth] times the weights + bias + add, the last two where they are given.
template <class T>
void multiply(int pixels, int in, int out, bool back, const T *x, const float *w, const float *bias, const T *add, T *y, float *panels) {
    int depth = back ? out : in, width = back ? in : out;
#pragma omp parallel
    {
        weights_in_panels(w, panels, in, out, back);
        float *room = scratch((size_t)CHUNK * depth);
#pragma omp for schedule(static)
        for (int first = 0; first < pixels; first += CHUNK) {
            int count = std::min(CHUNK, pixels - first);
            const float *from = as_floats(x + (size_t)first * depth, room, (size_t)count * depth);
            for (int c = 0; c < width; c += BLOCK) {
                alignas(64) float tile[CHUNK * BLOCK];  // stays in the first cache until it is written out
                int wide = std::min(BLOCK, width - c);
                product<false>(count, wide, depth, from, depth, 1, panels + (size_t)c * depth, tile, wide);
                for (int i = 0; i < count; i++)
                    for (int v = 0; v < wide; v += WIDTH) {
                        size_t at = (size_t)(first + i) * width + c + v;
                        vec value = load(tile + i * wide + v);
                        if (bias) value += load(bias + c + v);
                        if (add) value += load(add + at);
                        store(y + at, value);
                    }
            }
        }
    }
}

// dw [out, in] = dy^T x and dbias [out]; sums: [threads, out * in + out].
template <class T> void gradient(int pixels, int in, int out, const T *x, const T *dy, float *dw, float *dbias, float *sums) {
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
            convert(dy + (size_t)first * out, d, (size_t)count * out);
            for (int i = 0; i < count; i++) {
                for (int c = 0; c < in; c += WIDTH)
                    store(panels + in_panels(i, c, in, count), load(x + (size_t)(first + i) * in + c));
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
    void pointwise_##name(int pixels, int in, int out, int back, const T *x, const float *w, const float *bias,        \
                          const T *add, T *y, float *panels) {                                                         \
        multiply(pixels, in, out, back, x, w, bias, add, y, panels);                                                   \
    }                                                                                                                  \
    void pointwise_gradient_##name(int pixels, int in, int out, const T *x, const T *dy, float *dw, float *dbias, float *sums) { \
        gradient(pixels, in, out, x, dy, dw, dbias, sums);                                                             \
    }
POINTWISE(float, float32)
POINTWISE(bf16, bfloat16)
}
