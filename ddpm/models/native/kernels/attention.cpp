// Attention among the pixels of a feature map (Vaswani et al. 2017, Equation 1), some rows at a time, so that the
// matrix of all weights is never written; the backward pass computes it again (Dao et al. 2022).
#include <algorithm>
#include <cmath>
#include <omp.h>

#include "product.h"

namespace {

constexpr int CHUNK = 32;  // rows that are worked on together

struct Shape {
    int images, tokens, heads, each;  // each: channels of a head, a multiple of WIDTH

    int padded() const { return (tokens + BLOCK - 1) / BLOCK * BLOCK; }
    size_t apart() const { return (size_t)padded() + WIDTH; }  // of rows of scores: no power of two
    // Token t of head h in qkv [N, tokens, heads, 3, each]; what: 0 for q, 1 for k, 2 for v.
    size_t at(int n, int t, int h, int what) const {
        return (((size_t)n * tokens + t) * heads + h) * 3 * each + (size_t)what * each;
    }
    size_t out(int n, int t, int h) const { return (((size_t)n * tokens + t) * heads + h) * each; }
};

template <class T> void copy(const T *from, float *to, int count, float factor = 1) {
    for (int c = 0; c < count; c += WIDTH) store(to + c, load(from + c) * factor);
}

// Some rows of a head, with zeros beyond the last: to [count, each].
template <class T, class At> void gather(const Shape &s, const T *from, At at, int first, int count, float factor, float *to) {
    for (int i = 0; i < count; i++)
        if (first + i < s.tokens)
            copy(from + at(first + i), to + (size_t)i * s.each, s.each, factor);
        else
            std::fill(to + (size_t)i * s.each, to + (size_t)(i + 1) * s.each, 0.f);
}

// [padded, each] as the panels of its transpose.
void turn(const Shape &s, const float *from, float *panels) {
    for (int first = 0; first < s.padded(); first += BLOCK, panels += (size_t)BLOCK * s.each)
        for (int t = 0; t < BLOCK; t += 4)
            for (int c = 0; c < s.each; c += 4)
                transpose_four(from + (size_t)(first + t) * s.each + c, s.each, panels + (size_t)c * BLOCK + t, BLOCK);
}

// [padded, each] as panels.
void lay(const Shape &s, const float *from, float *panels) {
    for (int t = 0; t < s.padded(); t++)
        for (int c = 0; c < s.each; c += WIDTH)
            store(panels + in_panels(t, c, s.each, s.padded()), load(from + (size_t)t * s.each + c));
}

// e to the (row - top), nothing where there is no token; returns the sum.
float exponentials(const Shape &s, float *row, float top) {
    std::fill(row + s.tokens, row + s.padded(), -INFINITY);
    vec total = {};
    for (int t = 0; t < s.padded(); t += WIDTH) {
        vec power = exponential(at_least(load(row + t) - top, all(-87)));
        store(row + t, power);
        total += power;
    }
    std::fill(row + s.tokens, row + s.padded(), 0.f);  // these were next to nothing, and such numbers are slow
    return sum(total);
}

float largest(const Shape &s, const float *row) {
    constexpr int CHAINS = 4;  // that do not wait for one another
    vec most[CHAINS];
    std::fill(most, most + CHAINS, all(-INFINITY));
    int t = 0;
    for (; t + CHAINS * WIDTH <= s.tokens; t += CHAINS * WIDTH)
        for (int k = 0; k < CHAINS; k++) most[k] = at_least(most[k], load(row + t + k * WIDTH));
    for (; t + WIDTH <= s.tokens; t += WIDTH) most[0] = at_least(most[0], load(row + t));
    float parts[WIDTH];
    store(parts, at_least(at_least(most[0], most[1]), at_least(most[2], most[3])));
    float top = *std::max_element(parts, parts + WIDTH);
    for (; t < s.tokens; t++) top = std::max(top, row[t]);
    return top;
}

// of_rows: [N, heads, tokens], the logarithm of each row's sum of exponentials.
template <class T> void forward(const Shape &s, const T *qkv, T *out, float *of_rows) {
    float scale = 1 / std::sqrt((float)s.each);
    size_t whole = (size_t)s.padded() * s.each, rows = (size_t)CHUNK * s.each, apart = s.apart();
#pragma omp parallel for schedule(static) collapse(2)
    for (int n = 0; n < s.images; n++)
        for (int h = 0; h < s.heads; h++) {
            float *dense = scratch(3 * whole + 2 * rows + CHUNK * apart);
            float *keys = dense + whole, *values = keys + whole, *q = values + whole, *o = q + rows, *scores = o + rows;
            auto part = [&](int what) { return [&s, n, h, what](int t) { return s.at(n, t, h, what); }; };
            gather(s, qkv, part(1), 0, s.padded(), 1, dense), turn(s, dense, keys);
            gather(s, qkv, part(2), 0, s.padded(), 1, dense), lay(s, dense, values);
            for (int first = 0; first < s.tokens; first += CHUNK) {
                gather(s, qkv, part(0), first, CHUNK, scale, q);
                product<false>(CHUNK, s.padded(), s.each, q, s.each, 1, keys, scores, apart);
                float top[CHUNK], total[CHUNK];
                int count = std::min(CHUNK, s.tokens - first);
                // One thing after the other for all rows, which then do not wait for one another.
                for (int i = 0; i < count; i++) top[i] = largest(s, scores + i * apart);
                for (int i = 0; i < count; i++) total[i] = exponentials(s, scores + i * apart, top[i]);
                float *kept = of_rows + ((size_t)n * s.heads + h) * s.tokens + first;
                for (int i = 0; i < count; i++) kept[i] = top[i] + std::log(total[i]);
                product<false>(count, s.each, s.padded(), scores, apart, 1, values, o, s.each);
                for (int i = 0; i < count; i++)
                    for (int c = 0; c < s.each; c += WIDTH)
                        store(out + s.out(n, first + i, h) + c, load(o + (size_t)i * s.each + c) * (1 / total[i]));
            }
        }
}

template <class T> void backward(const Shape &s, const T *qkv, const T *out, const T *d_out, const float *of_rows, T *d_qkv) {
    float scale = 1 / std::sqrt((float)s.each);
    size_t whole = (size_t)s.padded() * s.each, rows = (size_t)CHUNK * s.each, apart = s.apart();
#pragma omp parallel for schedule(static) collapse(2)
    for (int n = 0; n < s.images; n++)
        for (int h = 0; h < s.heads; h++) {
            float *dense = scratch(6 * whole + 5 * rows + 2 * CHUNK * apart);
            float *keys = dense + whole, *values = keys + whole, *key_rows = values + whole, *dk = key_rows + whole;
            float *dv = dk + whole, *q = dv + whole, *q_panels = q + rows, *d = q_panels + rows, *d_panels = d + rows;
            float *dq = d_panels + rows, *weights = dq + rows, *d_scores = weights + CHUNK * apart;
            auto part = [&](int what) { return [&s, n, h, what](int t) { return s.at(n, t, h, what); }; };
            auto place = [&](int t) { return s.out(n, t, h); };
            gather(s, qkv, part(1), 0, s.padded(), 1, dense), turn(s, dense, keys), lay(s, dense, key_rows);
            gather(s, qkv, part(2), 0, s.padded(), 1, dense), turn(s, dense, values);
            std::fill(dk, dk + 2 * whole, 0.f);
            for (int first = 0; first < s.tokens; first += CHUNK) {
                int count = std::min(CHUNK, s.tokens - first);
                gather(s, qkv, part(0), first, CHUNK, scale, q);
                gather(s, d_out, place, first, CHUNK, 1, d);
                for (int i = 0; i < CHUNK; i++)
                    for (int c = 0; c < s.each; c += WIDTH) {
                        store(q_panels + in_panels(i, c, s.each, CHUNK), load(q + (size_t)i * s.each + c));
                        store(d_panels + in_panels(i, c, s.each, CHUNK), load(d + (size_t)i * s.each + c));
                    }
                product<false>(CHUNK, s.padded(), s.each, q, s.each, 1, keys, weights, apart);
                product<false>(CHUNK, s.padded(), s.each, d, s.each, 1, values, d_scores, apart);
                for (int i = 0; i < CHUNK; i++) {
                    float *row = weights + i * apart, *d_row = d_scores + i * apart;
                    if (i >= count) {
                        std::fill(row, row + s.padded(), 0.f), std::fill(d_row, d_row + s.padded(), 0.f);
                        continue;
                    }
                    exponentials(s, row, of_rows[((size_t)n * s.heads + h) * s.tokens + first + i]);
                    vec along = {};
                    const T *o = out + place(first + i);
                    for (int c = 0; c < s.each; c += WIDTH) along += load(o + c) * load(d + (size_t)i * s.each + c);
                    float mean = sum(along);
                    for (int t = 0; t < s.padded(); t += WIDTH) store(d_row + t, load(row + t) * (load(d_row + t) - mean));
                }
                product<true>(s.padded(), s.each, CHUNK, weights, 1, apart, d_panels, dv, s.each);
                product<true>(s.padded(), s.each, CHUNK, d_scores, 1, apart, q_panels, dk, s.each);  // q holds the scale
                product<false>(count, s.each, s.padded(), d_scores, apart, 1, key_rows, dq, s.each);
                for (int i = 0; i < count; i++)
                    for (int c = 0; c < s.each; c += WIDTH)
                        store(d_qkv + s.at(n, first + i, h, 0) + c, load(dq + (size_t)i * s.each + c) * scale);
            }
            for (int t = 0; t < s.tokens; t++)
                for (int c = 0; c < s.each; c += WIDTH) {
                    store(d_qkv + s.at(n, t, h, 1) + c, load(dk + (size_t)t * s.each + c));
                    store(d_qkv + s.at(n, t, h, 2) + c, load(dv + (size_t)t * s.each + c));
                }
        }
}

}  // namespace

extern "C" {

#define ATTENTION(T, name)                                                                                       \
    void attention_##name(int n, int tokens, int heads, int each, const T *qkv, T *out, float *of_rows) {        \
        forward(Shape{n, tokens, heads, each}, qkv, out, of_rows);                                               \
    }                                                                                                            \
    void attention_gradient_##name(int n, int tokens, int heads, int each, const T *qkv, const T *out,           \
                                   const T *d_out, const float *of_rows, T *d_qkv) {                             \
        backward(Shape{n, tokens, heads, each}, qkv, out, d_out, of_rows, d_qkv);                                \
    }
ATTENTION(float, float32)
ATTENTION(bf16, bfloat16)
}
