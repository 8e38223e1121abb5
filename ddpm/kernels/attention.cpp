// Softmax of attention scores and its gradient, in place: what lies between the two matrix products.
#include <cmath>
#include <omp.h>

#include "vectors.h"

namespace {

template <class T> void softmax(T *scores, long rows, int length) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        T *row = scores + r * length;
        float *e = scratch(length);
        vec most = all(-INFINITY), total = {};
        for (int i = 0; i < length; i += WIDTH) {
            vec v = load(row + i);
            most = v > most ? v : most;
        }
        float top = most[0];
        for (int i = 1; i < WIDTH; i++) top = most[i] > top ? most[i] : top;
        for (int i = 0; i < length; i += WIDTH) {
            vec v = exponential(load(row + i) - top);
            store(e + i, v);
            total += v;
        }
        float inverse = 1 / sum(total);
        for (int i = 0; i < length; i += WIDTH) store(row + i, load(e + i) * inverse);
    }
}

// gradient <- scale * p (gradient - sum(p gradient)).
template <class T> void softmax_gradient(const T *p, T *gradient, long rows, int length, float scale) {
#pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        const T *P = p + r * length;
        T *G = gradient + r * length;
        vec along = {};
        for (int i = 0; i < length; i += WIDTH) along += load(P + i) * load(G + i);
        float mean = sum(along);
        for (int i = 0; i < length; i += WIDTH) store(G + i, load(P + i) * (load(G + i) - mean) * scale);
    }
}

}  // namespace

extern "C" {

void softmax_float32(float *scores, long rows, int length) { softmax(scores, rows, length); }
void softmax_bfloat16(bf16 *scores, long rows, int length) { softmax(scores, rows, length); }
void softmax_gradient_float32(const float *p, float *g, long rows, int length, float scale) { softmax_gradient(p, g, rows, length, scale); }
void softmax_gradient_bfloat16(const bf16 *p, bf16 *g, long rows, int length, float scale) { softmax_gradient(p, g, rows, length, scale); }
}
