// Many linear layers of the same few rows at once, as of the timestep embedding in every block: what takes long is to
// read the weights, [outputs, inputs] each, which is done once.
#include <vector>
#include <omp.h>

#include "product.h"

namespace {

// Some outputs of a layer, which are worked on together.
struct Piece {
    int layer, first, count;
};

// The pieces of all layers, of which each thread takes the same number, in order.
struct Pieces {
    std::vector<Piece> all;
    size_t first, last;  // of this thread

    Pieces(int layers, const int *outputs, int at_once) {
        for (int l = 0; l < layers; l++)
            for (int o = 0; o < outputs[l]; o += at_once) all.push_back({l, o, std::min(at_once, outputs[l] - o)});
        size_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        first = all.size() * thread / threads, last = all.size() * (thread + 1) / threads;
    }
};

constexpr int FORWARD = 32, BACKWARD = 16;  // outputs in a piece

}  // namespace

extern "C" {

// y[layer] [rows, outputs] = x [rows, in] times w[layer]'s transpose + bias[layer].
void linear(int layers, int rows, int in, const int *outputs, const float *x, const float *const *w, const float *const *bias, float *const *y) {
#pragma omp parallel
    {
        Pieces own(layers, outputs, FORWARD);
        int padded = (rows + WIDTH - 1) / WIDTH * WIDTH;
        float *panels = scratch((size_t)padded * (in + FORWARD)), *C = panels + (size_t)padded * in;  // of x's transpose
        for (int r = 0; r < padded; r++) {
            float *to = panels + in_panels(0, r, padded, in);
            size_t step = in_panels(1, r, padded, in) - in_panels(0, r, padded, in);
            for (int i = 0; i < in; i++) to[i * step] = r < rows ? x[(size_t)r * in + i] : 0;
        }
        for (size_t k = own.first; k < own.last; k++) {
            Piece p = own.all[k];
            product<false>(p.count, padded, in, w[p.layer] + (size_t)p.first * in, in, 1, panels, C, padded);
            float *to = y[p.layer] + p.first;
            const float *b = bias[p.layer] + p.first;
            for (int r = 0; r < rows; r++)
                for (int o = 0; o < p.count; o++) to[(size_t)r * outputs[p.layer] + o] = C[(size_t)o * padded + r] + b[o];
        }
    }
}

// dw[layer] = dy[layer]^T x and dbias[layer]; dx [rows, in] = the sum of dy[layer] w[layer].  `in` is a multiple of
// BLOCK; parts: room for [threads, rows, in].
void linear_gradient(int layers, int rows, int in, const int *outputs, const float *x, const float *const *dy, const float *const *w, float *const *dw, float *const *dbias, float *dx, float *parts) {
    size_t whole = (size_t)rows * in;
#pragma omp parallel
    {
        Pieces own(layers, outputs, BACKWARD);
        float *part = parts + omp_get_thread_num() * whole;
        std::fill(part, part + whole, 0.f);
        for (size_t k = own.first; k < own.last; k++) {
            Piece p = own.all[k];
            int row = outputs[p.layer];
            const float *d = dy[p.layer] + p.first, *weights = w[p.layer] + (size_t)p.first * in;
            for (int c = 0; c < in; c += BLOCK) {
                product_rows<COLUMNS, false>(p.count, rows, d, 1, row, x + c, in, dw[p.layer] + (size_t)p.first * in + c, in);
                product_rows<COLUMNS, true>(rows, p.count, d, row, 1, weights + c, in, part + c, in);
            }
            for (int o = 0; o < p.count; o++) {
                float sum = 0;
                for (int r = 0; r < rows; r++) sum += d[(size_t)r * row + o];
                dbias[p.layer][p.first + o] = sum;
            }
        }
#pragma omp barrier
        int threads = omp_get_num_threads();
#pragma omp for schedule(static)
        for (size_t i = 0; i < whole; i++) {
            dx[i] = 0;
            for (int k = 0; k < threads; k++) dx[i] += parts[k * whole + i];
        }
    }
}
}
