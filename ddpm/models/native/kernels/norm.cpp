// Group normalisation (Wu & He 2018), then y (1 + scale) + shift where there is a timestep embedding, then SiLU, then
// dropout, in one reading of [N, pixels, C]; the statistics and everything between are float.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>
#include <omp.h>

#include "maps.h"
#include "vectors.h"

namespace {

struct Shape {
    int images, pixels, channels, groups;

    int each() const { return channels / groups; }  // channels of a group

    // Channels that are worked on together: whole groups and whole vectors; few enough to stay in the cache, and enough
    // side by side for the processor to fetch them ahead.
    int slab() const {
        int least = std::lcm(each(), WIDTH), most = least;
        while (most < 64 && channels % (2 * most) == 0) most *= 2;
        return most;
    }
};

constexpr int MOST = 1024;  // channels in a slab, at most

struct Given {  // of one image
    const float *weight, *bias, *scale, *shift;  // [C]; scale and shift may be null

    // The whole as y = a x + b, for channels from `first` on.
    void line(int first, int count, int each, const float *mean, const float *rstd, float *a, float *b) const {
        for (int i = 0; i < count; i++) {
            int c = first + i, g = c / each;
            a[i] = rstd[g] * weight[c];
            b[i] = bias[c] - mean[g] * a[i];
            if (scale) {
                a[i] *= 1 + scale[c];
                b[i] = b[i] * (1 + scale[c]) + shift[c];
            }
        }
    }
};

// Dropout (Srivastava et al. 2014).  Whether an activation is dropped is a hash of its index in the map and of the call's
// keys, so that the gradient computes it again: nothing is kept, and threads need not wait for one another.
struct Dropout {
    uint32_t first, second, below;
    float scale;

    Dropout(int first, int second, double share)
        : first(first), second(second), below((uint32_t)std::llround(share * 4294967296.)), scale((float)(1 / (1 - share))) {}

    explicit operator bool() const { return below; }

    // By what activations are multiplied, 0 or 1 / (1 - share).  index: of the first of them.  The mixing steps are those of
    // lowbias32 (Wellons 2018), with a key before each.
    vec factor(size_t index) const {
        ints x;
        for (int i = 0; i < WIDTH; i++) x[i] = (uint32_t)index + i;
        x ^= first;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x ^= second;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        x ^= x >> 16;
        return x < below ? vec{} : all(scale);
    }
};

// Each channel's mean and each's deviation from it, by the group: mean[slab], rstd[slab].  Sums are of what differs from
// the channel's first pixel, so that nothing is lost where the mean is large beside the deviation.
template <class T> void measure(const Map<const T> &x, const Shape &s, int n, int from, int slab, float eps, float *mean, float *rstd) {
    alignas(64) float sums[MOST], squares[MOST], shift[MOST];
    for (int c = 0; c < slab; c += WIDTH) {
        constexpr int CHAINS = 4;  // sums that do not wait for one another
        const T *at = x.at((size_t)n * s.pixels, from + c);
        size_t step = x.step(from + c);
        vec first = load(at), sum[CHAINS] = {}, square[CHAINS] = {};
        int i = 0;
        for (; i + CHAINS <= s.pixels; i += CHAINS)
            for (int k = 0; k < CHAINS; k++, at += step) {
                vec d = load(at) - first;
                sum[k] += d;
                square[k] += d * d;
            }
        for (; i < s.pixels; i++, at += step) {
            vec d = load(at) - first;
            sum[0] += d;
            square[0] += d * d;
        }
        store(shift + c, first);
        store(sums + c, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        store(squares + c, (square[0] + square[1]) + (square[2] + square[3]));
    }
    double count = s.pixels;
    for (int group = 0; group < slab; group += s.each()) {
        double total = 0, apart = 0;
        for (int c = group; c < group + s.each(); c++) total += sums[c] + count * shift[c];
        double middle = total / (count * s.each());
        for (int c = group; c < group + s.each(); c++) {
            double off = middle - shift[c];
            apart += squares[c] - 2 * off * sums[c] + count * off * off;
        }
        std::fill(mean + group, mean + group + s.each(), (float)middle);
        std::fill(rstd + group, rstd + group + s.each(), (float)(1 / std::sqrt(std::max(apart, 0.) / (count * s.each()) + eps)));
    }
}

template <class T>
void forward(const Shape &s, const Map<const T> &x, T *y, const float *weight, const float *bias, const float *embedding, float eps, float *statistics, bool silu, const Dropout &dropout) {
    int slab = s.slab();
    float *mean = statistics, *rstd = mean + (size_t)s.images * s.groups;
#pragma omp parallel for schedule(static) collapse(2)
    for (int n = 0; n < s.images; n++)
        for (int first = 0; first < s.channels; first += slab) {
            alignas(64) float m[MOST], q[MOST], a[MOST], b[MOST];
            size_t pixel = (size_t)n * s.pixels;
            measure(x, s, n, first, slab, eps, m, q);
            float *means = mean + (size_t)n * s.groups, *rstds = rstd + (size_t)n * s.groups;
            for (int c = 0; c < slab; c += s.each()) {
                means[(first + c) / s.each()] = m[c];
                rstds[(first + c) / s.each()] = q[c];
            }
            const float *scale = embedding ? embedding + (size_t)n * 2 * s.channels : nullptr;
            Given given{weight, bias, scale, scale ? scale + s.channels : nullptr};
            given.line(first, slab, s.each(), means, rstds, a, b);
            for (int c = 0, count; c < slab; c += count) {
                count = x.together(first + c, slab - c);
                const T *X = x.at(pixel, first + c);
                size_t step = x.step(first + c), index = pixel * s.channels + first + c;
                for (int i = 0; i < s.pixels; i++, X += step, index += s.channels)
                    for (int v = 0; v < count; v += WIDTH) {
                        vec z = load(X + v) * load(a + c + v) + load(b + c + v);
                        if (silu) z *= sigmoid(z);
                        store(y + index + v, dropout ? z * dropout.factor(index + v) : z);
                    }
            }
        }
}

// again: whether what came out of the forward pass replaces dy, so that nobody need keep it.  add: what is added to dx, or
// null.  d_weight, d_bias: [C].  d_embedding: [N, 2C] or null.
template <class T>
void backward(const Shape &s, T *dy, bool again, const Map<const T> &x, const Map<const T> &add, const Map<T> &dx, const float *weight, const float *bias, const float *embedding, const float *statistics, float *d_weight, float *d_bias, float *d_embedding, bool silu, const Dropout &dropout) {
    int slab = s.slab();
    const float *mean = statistics, *rstd = mean + (size_t)s.images * s.groups;
    std::vector<float> parts((size_t)s.images * 2 * s.channels);  // what each image adds to d_weight and d_bias
#pragma omp parallel for schedule(static) collapse(2)
    for (int n = 0; n < s.images; n++)
        for (int first = 0; first < s.channels; first += slab) {
            alignas(64) float a[MOST], b[MOST], m[MOST], s1[MOST], s2[MOST], k1[MOST], k2[MOST];
            size_t pixel = (size_t)n * s.pixels;
            float *dz = scratch((size_t)s.pixels * slab);
            const float *means = mean + (size_t)n * s.groups, *rstds = rstd + (size_t)n * s.groups;
            const float *scale = embedding ? embedding + (size_t)n * 2 * s.channels : nullptr;
            Given given{weight, bias, scale, scale ? scale + s.channels : nullptr};
            given.line(first, slab, s.each(), means, rstds, a, b);
            for (int c = 0; c < slab; c++) m[c] = means[(first + c) / s.each()];
            std::fill(s1, s1 + slab, 0.f), std::fill(s2, s2 + slab, 0.f);
            for (int c = 0, count; c < slab; c += count) {
                count = x.together(first + c, slab - c);
                const T *X = x.at(pixel, first + c);
                size_t step = x.step(first + c), index = pixel * s.channels + first + c;
                for (int i = 0; i < s.pixels; i++, X += step, index += s.channels)
                    for (int v = 0, k = c; v < count; v += WIDTH, k += WIDTH) {
                        vec of_x = load(X + v), d = load(dy + index + v), y = of_x * load(a + k) + load(b + k);
                        vec factor = dropout ? dropout.factor(index + v) : all(1);
                        if (silu) {
                            vec z = y, g = sigmoid(z);
                            d *= factor * g * (z * (1.f - g) + 1.f);
                            y *= g;
                        } else
                            d *= factor;
                        if (again) store(dy + index + v, y * factor);
                        store(dz + (size_t)i * slab + k, d);
                        store(s1 + k, load(s1 + k) + d);
                        store(s2 + k, load(s2 + k) + d * (of_x - load(m + k)));
                    }
            }
            float *of_w = parts.data() + (size_t)n * 2 * s.channels, *of_b = of_w + s.channels;
            float inverse = 1.f / ((float)s.pixels * s.each());
            for (int group = 0; group < slab; group += s.each()) {
                float r = rstds[(first + group) / s.each()];
                double t1 = 0, t2 = 0;
                for (int i = group; i < group + s.each(); i++) {
                    int c = first + i;
                    float by = scale ? 1 + scale[c] : 1, normed = s2[i] * r;  // sum of dz times the normalised x
                    of_w[c] = by * normed;
                    of_b[c] = by * s1[i];
                    if (d_embedding) {
                        d_embedding[(size_t)n * 2 * s.channels + c] = weight[c] * normed + bias[c] * s1[i];
                        d_embedding[(size_t)n * 2 * s.channels + s.channels + c] = s1[i];
                    }
                    t1 += weight[c] * by * s1[i];
                    t2 += weight[c] * by * normed;
                }
                float slope = -r * r * (float)t2 * inverse, level = -r * (float)t1 * inverse;
                for (int i = group; i < group + s.each(); i++) k1[i] = slope, k2[i] = level - slope * m[i];
            }
            for (int c = 0, count; c < slab; c += count) {
                count = x.together(first + c, slab - c);
                const T *X = x.at(pixel, first + c), *more = add ? add.at(pixel, first + c) : nullptr;
                T *D = dx.at(pixel, first + c);
                size_t step = x.step(first + c);
                for (int i = 0; i < s.pixels; i++, X += step, D += step, more += more ? step : 0)
                    for (int v = 0, k = c; v < count; v += WIDTH, k += WIDTH) {
                        vec d = load(dz + (size_t)i * slab + k) * load(a + k) + (load(X + v) * load(k1 + k) + load(k2 + k));
                        store(D + v, more ? d + load(more + v) : d);
                    }
            }
        }
    std::fill(d_weight, d_weight + s.channels, 0.f), std::fill(d_bias, d_bias + s.channels, 0.f);
    const float *part = parts.data();
    for (int n = 0; n < s.images; n++, part += 2 * s.channels)
        for (int c = 0; c < s.channels; c++) d_weight[c] += part[c], d_bias[c] += part[s.channels + c];
}

}  // namespace

extern "C" {

// Channels in a slab, to be at most 1024, or 0 where the channels are no multiple of a vector's.
int norm_fits(int channels, int groups) {
    if (channels % groups || channels % std::lcm(channels / groups, WIDTH)) return 0;
    return Shape{1, 1, channels, groups}.slab() <= MOST;
}

#define NORM(T, name)                                                                                                     \
    void norm_##name(int n, int pixels, int c, int groups, int split, const T *x, const T *x2, T *y, const float *weight, const float *bias, \
                     const float *embedding, float eps, float *statistics, int silu, int key, int key2, double share) { \
        Map<const T> in(x, x2, split, c);                                                                              \
        forward(Shape{n, pixels, c, groups}, in, y, weight, bias, embedding, eps, statistics, silu, Dropout(key, key2, share)); \
    }                                                                                                                     \
    void norm_gradient_##name(int n, int pixels, int c, int groups, int split, int again, T *dy, const T *x, const T *x2, const T *add, const T *add2, \
                              T *dx, T *dx2, const float *weight, const float *bias, const float *embedding, const float *statistics, \
                              float *d_weight, float *d_bias, float *d_embedding, int silu, int key, int key2, double share) { \
        Map<const T> in(x, x2, split, c), added(add, add2, split, c);                                                  \
        Map<T> d_in(dx, dx2, split, c);                                                                                \
        backward(Shape{n, pixels, c, groups}, dy, again, in, added, d_in, weight, bias, embedding, statistics, d_weight, d_bias, d_embedding, silu, Dropout(key, key2, share)); \
    }
NORM(float, float32)
NORM(bf16, bfloat16)
}
