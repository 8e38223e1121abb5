// The end of a training step over all weights: the length of the gradient, then AdamW (Loshchilov & Hutter 2019) and
// the moving averages, in one reading of everything.
#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

constexpr long PIECE = 1 << 14;  // numbers that are worked on together

struct Piece {
    int tensor;
    long from, to;
};

std::vector<Piece> pieces(int tensors, const long *sizes) {
    std::vector<Piece> all;
    for (int t = 0; t < tensors; t++)
        for (long from = 0; from < sizes[t]; from += PIECE) all.push_back({t, from, std::min(from + PIECE, sizes[t])});
    return all;
}

struct Settings {  // each rounded but once: 1 - 0.999f is a hundred thousandth from 0.001
    float kept, step, fresh1, beta2, fresh2, eps, correction2, factor;
};

// One vector of weights, or one number of them.
template <class V, class Root>
inline V adamw(const Settings &s, V weight, V gradient, V &mean, V &square, Root root) {
    gradient *= s.factor;
    mean += (gradient - mean) * s.fresh1;
    square = square * s.beta2 + gradient * gradient * s.fresh2;
    return weight * s.kept - s.step * mean / (root(square) / s.correction2 + s.eps);
}

inline vec root(vec v) {
    for (int i = 0; i < WIDTH; i++) v[i] = std::sqrt(v[i]);
    return v;
}

}  // namespace

extern "C" {

// The sum of all squares, the same whatever the number of threads.
double update_square(int tensors, const float *const *gradients, const long *sizes) {
    std::vector<Piece> work = pieces(tensors, sizes);
    std::vector<double> sums(work.size());
#pragma omp parallel for schedule(static)
    for (long k = 0; k < (long)work.size(); k++) {
        const float *g = gradients[work[k].tensor];
        long i = work[k].from, end = work[k].to;
        vec squares[4] = {};
        for (; i + 4 * WIDTH <= end; i += 4 * WIDTH)
            for (int v = 0; v < 4; v++) {
                vec value = load(g + i + v * WIDTH);
                squares[v] += value * value;
            }
        double total = sum(squares[0] + squares[1] + (squares[2] + squares[3]));
        for (; i < end; i++) total += g[i] * g[i];  // overflows where a vector does
        sums[k] = total;
    }
    double total = 0;
    for (double part : sums) total += part;
    return total;
}

// averages: [rates][tensors]; kept: [rates], how much of each average stays; factor multiplies the gradient;
// correction1 = 1 - beta1^n, correction2 = sqrt(1 - beta2^n) in step n.
void update_adamw(int tensors, float *const *weights, const float *const *gradients, float *const *means, float *const *squares, const long *sizes, int rates, float *const *averages, const double *kept, double lr, double decay, double beta1, double beta2, double eps, double correction1, double correction2, double factor) {
    Settings s{(float)(1 - lr * decay), (float)(lr / correction1), (float)(1 - beta1), (float)beta2, (float)(1 - beta2), (float)eps, (float)correction2, (float)factor};
    std::vector<Piece> work = pieces(tensors, sizes);
#pragma omp parallel for schedule(static)
    for (long k = 0; k < (long)work.size(); k++) {
        int t = work[k].tensor;
        float *w = weights[t], *m = means[t], *v = squares[t];
        const float *g = gradients[t];
        long i = work[k].from, end = work[k].to;
        for (; i + WIDTH <= end; i += WIDTH) {
            vec mean = load(m + i), square = load(v + i);
            vec now = adamw(s, load(w + i), load(g + i), mean, square, [](vec x) { return root(x); });
            store(m + i, mean), store(v + i, square), store(w + i, now);
            for (int r = 0; r < rates; r++) {
                float *a = averages[r * tensors + t] + i;
                vec average = load(a);
                store(a, average + (now - average) * (float)(1 - kept[r]));
            }
        }
        for (; i < end; i++) {
            w[i] = adamw(s, w[i], g[i], m[i], v[i], [](float x) { return std::sqrt(x); });
            for (int r = 0; r < rates; r++) {
                float *a = averages[r * tensors + t] + i;
                *a += (w[i] - *a) * (float)(1 - kept[r]);
            }
        }
    }
}
}
